"""An evaluation: the counts of a checkpoint's right answers, and their report as a table and files."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitaos.analysis.measured import LEARNED
from vitaos.assembly import builders, imagenet
from vitaos.assembly.eval_target import EvalTarget, build_loader, build_model, resolve_checkpoint
from vitaos.checkpoint.folder import run_folder_of
from vitaos.config import EvalConfig, enabled_techniques
from vitaos.data import EvalLoader
from vitaos.engine import evaluator
from vitaos.engine.evaluator import EvaluationResult
from vitaos.engine.precision import build_precision
from vitaos.files import file_name
from vitaos.outputs.environment import versions
from vitaos.runtime.world import World, initialize


def evaluate(config: EvalConfig) -> tuple["Report", list[Path]]:
    """One evaluation: checkpoint -> model and data -> counts -> a report.

    Returns:
        The report, and the files written; those only on the main rank.

    Raises:
        ValueError: no checkpoint is given, or it or the data cannot be used.
    """
    if not config.checkpoint:
        raise ValueError("checkpoint=RUN_OR_FILE is missing: a run folder, or a .pt, .pth or .safetensors file")
    world = initialize(config.device)
    target = resolve_checkpoint(config, config.checkpoint)
    if (layout := imagenet.layout(config.dataset)) is not None:
        target = replace(target, data=replace(target.data, prepare=layout))
    with closing(build_loader(config, target, world)) as loader:
        classes = imagenet.match_classes(config.dataset, target.class_names, loader.class_names, target.file)
        model = build_model(target, classes.answers).to(world.device)
        count = partial(evaluate_checkpoint, config, target, model, loader=loader, classes=classes, world=world)
        report = Report(
            config, target, loader.class_names, {kind: count(kind) for kind in target.choose_weights(config.weights)}
        )
    return report, report.write() if world.is_main else []


def evaluate_checkpoint(
    config: EvalConfig,
    target: EvalTarget,
    model: nn.Module,
    weights: str,
    *,
    loader: EvalLoader,
    classes: imagenet.Classes,
    world: World,
) -> EvaluationResult:
    """Load one kind of weights into the model and count its right answers, on all ranks together."""
    target.load_weights(model, weights)
    if config.zero_learned:
        zero_learned_values(model)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return evaluator.evaluate(
        model,
        loader,
        builders.build_normalize(target.data),
        world=world,
        precision=build_precision(config.precision, world.device),
        num_classes=classes.classes,
        class_indices=classes.indices,
        real_labels=imagenet.real_labels(loader.file_names(), config.real_labels) if config.dataset == "real" else None,
        keep_predictions=config.predictions,
    )


@torch.no_grad()
def zero_learned_values(model: nn.Module) -> None:
    """Set every w, s and t to 0: what the other weights do without them.

    Raises:
        ValueError: the model has none.
    """
    found = [parameter for path, parameter in model.named_parameters() if path.rpartition(".")[2] in LEARNED]
    if not found:
        raise ValueError("zero_learned=true: the model has neither AttnScale nor FeatScale, so nothing to set to 0")
    for parameter in found:
        parameter.zero_()


class Report:
    """The outcome of an evaluation as a table, as JSON, by class as CSV and by image as NPZ."""

    def __init__(
        self, config: EvalConfig, target: EvalTarget, names: Sequence[str], results: Mapping[str, EvaluationResult]
    ) -> None:
        self.config, self.target, self.names, self.results = config, target, names, results

    def table(self) -> str:
        """A line for each kind of weights."""
        zeroed = ", w, s and t at 0" if self.config.zero_learned else ""
        lines = [f"{self.target.path} on {file_name(self.target.data.name)} ({self.config.dataset}){zeroed}"]
        lines += [
            f"{weights:>4}  top-1 {result.top1:6.2f}%  top-5 {result.top5:6.2f}%  loss {result.loss:.4f}  "
            f"images {result.count:,}"
            for weights, result in self.results.items()
        ]
        return "\n".join(lines)

    def write(self) -> list[Path]:
        """Write the files and return their paths."""
        folder = Path(self.config.out) if self.config.out else _folder_for(self.target.file)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{file_name(self.target.data.name)}-{self.config.dataset}"
        if self.config.zero_learned:
            stem += "-zeroed"
        summary, by_class = folder / f"{stem}.json", folder / f"{stem}-classes.csv"
        summary.write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        # Folder names need not be UTF-8: their other bytes are written as \udcXX.
        with by_class.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows(self._rows())
        by_image = self._by_image()
        if not by_image:
            return [summary, by_class]
        arrays: dict[str, Any] = dict(by_image)  # numpy types its own keyword beside the arrays'
        np.savez_compressed(folder / f"{stem}-predictions.npz", **arrays)
        return [summary, by_class, folder / f"{stem}-predictions.npz"]

    def _by_image(self) -> dict[str, NDArray[Any]]:
        """Label, first answer and whether it counts as right, of every image in the order of the dataset."""
        arrays: dict[str, NDArray[Any]] = {}
        for weights, result in self.results.items():
            if (found := result.predictions) is not None:
                arrays["target"] = found.target
                arrays |= {f"{weights}_predicted": found.predicted, f"{weights}_correct": found.correct}
        return arrays

    def summary(self) -> dict[str, Any]:
        """What the JSON file holds: the checkpoint, its model, its data, and counts and measures by kind of weights."""
        described = self.target.model_config
        assert described.model is not None
        by_weights = {
            weights: {
                "top1": result.top1,
                "top5": result.top5,
                "loss": result.loss,
                "count": result.count,
                "correct1": result.correct1,
                "correct5": result.correct5,
            }
            for weights, result in self.results.items()
        }
        first = next(iter(by_weights.values()))
        return {
            "checkpoint": str(self.target.path),
            "model": described.model.name,
            "depth": described.depth,
            "techniques": enabled_techniques(described),
            "data": self.target.data.name,
            "dataset": self.config.dataset,
            "img_size": self.target.img_size,
            "zero_learned": self.config.zero_learned,
            **first,
            "weights": by_weights,
            "versions": versions(seed=0, world_size=1)["packages"],
        }

    def _rows(self) -> list[list[Any]]:
        kinds = [f"{weights}_{top}" for weights in self.results for top in ("top1", "top5")]
        rows: list[list[Any]] = [["class", "name", "count", *kinds]]
        first = next(iter(self.results.values()))
        for index, name in enumerate(self.names):
            count = int(first.class_count[index])
            row: list[Any] = [index, name, count]
            for result in self.results.values():
                for correct in (result.class_correct1, result.class_correct5):
                    row.append(f"{100.0 * int(correct[index]) / count:.2f}" if count else "")
            rows.append(row)
        return rows


def _folder_for(checkpoint: Path) -> Path:
    """Beside the checkpoint: ``RUN/evaluation`` for a run's, ``NAME_evaluation`` for a lone file."""
    run = run_folder_of(checkpoint)
    return run / "evaluation" if run is not None else checkpoint.with_name(f"{checkpoint.stem}_evaluation")
