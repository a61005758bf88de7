"""ImageNet-C: a checkpoint under 15 corruptions at 5 severities, and its mean corruption error."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitaos.assembly import imagenet
from vitaos.assembly.eval_target import EvalTarget, build_loader
from vitaos.assembly.evaluation_report import counts, described, results_folder, results_stem, write_rows
from vitaos.assembly.judge import Judges, answer_names
from vitaos.config import EvalConfig
from vitaos.data import EvalLoader
from vitaos.data.corruptions import (
    ALEXNET_ERRORS,
    CELLS,
    SEVERITIES,
    SMALLEST,
    Cell,
    Corrupt,
    check_alike,
    corruption_errors,
    find_folders,
    mean_corruption_error,
    warm_up,
)
from vitaos.engine.evaluation_result import EvaluationResult
from vitaos.files import file_name
from vitaos.runtime.world import World


@dataclass(frozen=True)
class Corrupted:
    """The images of ImageNet-C, folder by folder.

    Attributes:
        config, target: the evaluation's; ``target.data`` reads the published folders' parent in ``data.val``, or with
            ``corrupt=true`` the images that are corrupted on the fly.
        folders: the published folder of each corruption and severity; None where they are made on the fly.
        classes: how the model's answers meet those of the images.
    """

    config: EvalConfig
    target: EvalTarget
    folders: Mapping[Cell, Path] | None
    classes: imagenet.Classes

    def judge(self, judges: Judges, world: World) -> dict[str, dict[Cell, EvaluationResult]]:
        """The results by kind of weights, under each corruption and severity; each folder is opened once for all."""
        found: dict[str, dict[Cell, EvaluationResult]] = {}
        for cell in CELLS:
            with closing(_open(self.config, self.target, self.folders, cell, world)) as loader:
                for weights, judgment in judges.judge(loader, self.classes).items():
                    found.setdefault(weights, {})[cell] = judgment.result
        return found


def prepare(config: EvalConfig, target: EvalTarget, known: list[str] | None, world: World) -> Corrupted:
    """Find the images and hold the classes of every folder against the model's.

    Raises:
        ValueError: a folder is missing, its classes are others, or the images are too small to be corrupted.
    """
    target = replace(target, data=replace(target.data, prepare=imagenet.layout("c") or ""))
    if config.corrupt and target.img_size < SMALLEST:
        raise ValueError(f"corrupt=true: images of {target.img_size} px; at least {SMALLEST} are needed")
    folders = None if config.corrupt else find_folders(_published(target))
    config = replace(config, predictions=False, calibration=False)
    with closing(_open(config, target, folders, CELLS[0], world)) as loader:
        classes = imagenet.match_classes("c", known, loader.class_names, target.file)
        if folders is None:
            warm_up()  # worker processes of the 75 loaders are forks of this one
        else:
            check_alike(folders)
    return Corrupted(config, target, folders, classes)


def evaluate(config: EvalConfig, target: EvalTarget, world: World) -> "CorruptionReport":
    """The report on ImageNet-C alone."""
    images = prepare(config, target, answer_names(config, target, world), world)
    judges = Judges(images.config, target, images.classes.answers, world)
    return CorruptionReport(config, target, images.judge(judges, world))


class CorruptionReport:
    """What ImageNet-C says of one or two kinds of weights."""

    def __init__(
        self, config: EvalConfig, target: EvalTarget, results: Mapping[str, Mapping[Cell, EvaluationResult]]
    ) -> None:
        self.config, self.target, self.results = config, target, results

    def table(self) -> str:
        """mCE, and for each corruption its error relative to AlexNet's and the accuracy by severity."""
        how = "made on the fly" if self.config.corrupt else "the published images"
        lines = [f"{self.target.path} on {file_name(self.target.data.name)} (c, {how})"]
        for weights, cells in self.results.items():
            measures = corruption_measures(cells)
            lines.append(
                f"{weights:>4}  mCE {measures['mce']:6.2f}%  top-1 {measures['top1']:6.2f}%  "
                f"images {measures['count']:,}"
            )
            lines.append(
                f"      {'':18} {'CE':>8}  top-1 at severity " + "".join(f"{level:>8}" for level in SEVERITIES)
            )
            for name, error in measures["ce"].items():
                accuracies = "".join(f"{cells[name, severity].top1:8.2f}" for severity in SEVERITIES)
                lines.append(f"      {name:18} {error:7.2f}% {'':19}{accuracies}")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """What the JSON file holds."""
        by_weights = {weights: corruption_measures(cells) for weights, cells in self.results.items()}
        return {
            **described(self.config, self.target),
            "dataset": "c",
            "on_the_fly": self.config.corrupt,
            **next(iter(by_weights.values())),
            "weights": by_weights,
            "reference_errors": {name: 100 * error for name, error in ALEXNET_ERRORS.items()},
        }

    def write(self) -> list[Path]:
        """JSON, and a CSV with a row for each corruption and severity."""
        stem = results_stem(self.config, self.target, "c")
        folder = results_folder(self.config, self.target)
        summary, cells = folder / f"{stem}.json", folder / f"{stem}.csv"
        summary.write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        write_rows(cells, self._rows())
        return [summary, cells]

    def _rows(self) -> list[Sequence[Any]]:
        rows: list[Sequence[Any]] = [["weights", "corruption", "severity", "count", "top1", "top5", "loss"]]
        for weights, cells in self.results.items():
            for (name, severity), result in cells.items():
                rows.append([weights, name, severity, result.count, result.top1, result.top5, result.loss])
        return rows


def corruption_measures(cells: Mapping[Cell, EvaluationResult]) -> dict[str, Any]:
    """mCE and CE by corruption in per cent, the counts of all folders together, and those of each."""
    errors = {cell: 100.0 - result.top1 for cell, result in cells.items()}
    count = sum(result.count for result in cells.values())
    correct1, correct5 = (sum(getattr(result, f"correct{top}") for result in cells.values()) for top in (1, 5))
    return {
        "mce": mean_corruption_error(errors),
        "ce": corruption_errors(errors),
        "top1": 100.0 * correct1 / count,
        "top5": 100.0 * correct5 / count,
        "loss": sum(result.loss * result.count for result in cells.values()) / count,
        "count": count,
        "correct1": correct1,
        "correct5": correct5,
        "cells": {
            name: {str(severity): counts(cells[name, severity]) for severity in SEVERITIES} for name in ALEXNET_ERRORS
        },
    }


def _published(target: EvalTarget) -> Path:
    """The folder that holds the published folders: ``data.val``, else ``data.root``.

    Raises:
        ValueError: neither is given.
    """
    root = target.data.val or target.data.root
    if root is None:
        raise ValueError(f"dataset=c: where are the images? {imagenet.layout('c')}")
    return Path(root)


def _open(
    config: EvalConfig, target: EvalTarget, folders: Mapping[Cell, Path] | None, cell: Cell, world: World
) -> EvalLoader:
    if folders is None:
        return build_loader(config, target, world, corruption=Corrupt(*cell))
    data = replace(target.data, kind="folder", val=str(folders[cell]))
    return build_loader(config, replace(target, data=data), world, whole=True)  # the published ones are cut out already
