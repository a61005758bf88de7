"""The outcome of an evaluation on one dataset: a table for the screen, JSON, CSV by class, NPZ by image, a figure."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitaos.analysis.reliability import save_reliability
from vitaos.assembly import fewer_tokens
from vitaos.assembly.eval_target import EvalTarget
from vitaos.assembly.judge import BY_CLASSIFIER, Judgment
from vitaos.checkpoint.folder import run_folder_of
from vitaos.config import EvalConfig, enabled_techniques
from vitaos.engine.calibration import Calibration, calibrate
from vitaos.engine.confusion import confusion_matrix, worst_classes
from vitaos.engine.evaluation_result import EvaluationResult
from vitaos.files import file_name
from vitaos.outputs.environment import versions


class Report:
    """What one dataset says of one or two kinds of weights.

    Args:
        config: the evaluation's.
        target: the checkpoint and the data.
        names: the classes of the images, in the order of their labels.
        judgments: by kind of weights.
    """

    def __init__(
        self, config: EvalConfig, target: EvalTarget, names: Sequence[str], judgments: Mapping[str, Judgment]
    ) -> None:
        self.config, self.target, self.names = config, target, names
        self.results = {weights: judgment.result for weights, judgment in judgments.items()}
        self._by_k = {weights: judgment.by_k for weights, judgment in judgments.items()}
        self.calibrations: dict[str, Calibration] = {
            weights: calibrate(result.confidences)
            for weights, result in self.results.items()
            if result.confidences is not None
        }

    def table(self) -> str:
        """A line for each kind of weights."""
        zeroed = ", w, s and t at 0" if self.config.zero_learned else ""
        reduced = f" with {fewer_tokens.title(self.target.reduced)}" if self.target.reduced else ""
        judged = "" if self.config.metric == BY_CLASSIFIER else f", {self._judged_by()}"
        data = f"{file_name(self.target.data.name)} ({self.config.dataset})"
        lines = [f"{self.target.path}{reduced} on {data}{zeroed}{judged}"]
        for weights, result in self.results.items():
            lines.append(
                f"{weights:>4}  top-1 {result.top1:6.2f}%  top-5 {result.top5:6.2f}%  loss {result.loss:.4f}  "
                f"images {result.count:,}"
            )
            lines += [
                f"      k {k:4}  top-1 {by_k.top1:6.2f}%  top-5 {by_k.top5:6.2f}%"
                for k, by_k in self._by_k[weights].items()
            ]
            if found := self.calibrations.get(weights):
                lines.append(f"      ECE {100 * found.ece:.2f}%  NLL {found.nll:.4f}  Brier {found.brier:.4f}")
        return "\n".join(lines)

    def _judged_by(self) -> str:
        if self.config.metric == "linear":
            return f"logistic regression on its {self.config.features} features (C = {self.config.regularization_c:g})"
        return f"{self.config.k[0]} nearest neighbors of its {self.config.features} features"

    def write(self) -> list[Path]:
        """Write the files and return their paths."""
        folder = results_folder(self.config, self.target)
        stem = results_stem(self.config, self.target, self.config.dataset)
        summary, by_class = folder / f"{stem}.json", folder / f"{stem}-classes.csv"
        summary.write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        write_rows(by_class, self._rows())
        written = [summary, by_class]
        if by_image := self._by_image():
            arrays: dict[str, Any] = dict(by_image)  # numpy types its own keyword beside the arrays'
            written.append(folder / f"{stem}-predictions.npz")
            np.savez_compressed(written[-1], **arrays)
        written += self._write_confusion(folder, stem)
        for weights, found in self.calibrations.items():
            written.append(folder / f"{stem}-reliability-{weights}.png")
            title = (
                f"{Path(self.target.file).name}, {weights} weights, on {self.target.data.name} ({self.config.dataset})"
            )
            save_reliability(found, written[-1], title=title)
        return written

    def _write_confusion(self, folder: Path, stem: str) -> list[Path]:
        """For each kind of weights the matrix, and the classes from the worst to the best; from the predictions."""
        written = []
        for weights, result in self.results.items():
            if (
                result.predictions is None or self.config.dataset == "real"
            ):  # several labels of an image are right there
                continue
            matrix = confusion_matrix(result.predictions, len(self.names))
            columns = list(self.names) + ["not finite"] * (matrix.shape[1] > len(self.names))
            rows = [[name, *line] for name, line in zip(self.names, matrix.tolist(), strict=True)]
            written.append(folder / f"{stem}-confusion-{weights}.csv")
            write_rows(written[-1], [["class \\ predicted", *columns], *rows])
            written.append(folder / f"{stem}-worst-{weights}.csv")
            write_rows(written[-1], worst_classes(matrix, self.names))
        return written

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
        by_weights = {weights: self._measures(weights) for weights in self.results}
        first = next(iter(by_weights.values()))
        return {
            **described(self.config, self.target),
            "dataset": self.config.dataset,
            **first,
            "weights": by_weights,
            "versions": versions(seed=0, world_size=1)["packages"],
        }

    def _measures(self, weights: str) -> dict[str, Any]:
        measures = counts(self.results[weights])
        if by_k := self._by_k[weights]:
            measures |= {"k": next(iter(by_k)), "by_k": {str(k): counts(result) for k, result in by_k.items()}}
        if found := self.calibrations.get(weights):
            measures["calibration"] = found.summary()
        return measures

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


def described(config: EvalConfig, target: EvalTarget) -> dict[str, Any]:
    """What is judged and how, for JSON."""
    model = target.model_config
    assert model.model is not None
    found: dict[str, Any] = {
        "checkpoint": str(target.path),
        **({} if target.step is None else {"step": target.step}),
        "model": model.model.name,
        "depth": model.depth,
        "techniques": enabled_techniques(model),
        "data": target.data.name,
        "img_size": target.img_size,
        "zero_learned": config.zero_learned,
        "metric": config.metric,
    }
    if config.polyphase_anchoring:
        found["polyphase_anchoring"] = True
    if config.metric != BY_CLASSIFIER:
        found["features"] = config.features
    if config.metric == "knn":
        found["temperature"] = config.temperature
    if config.metric == "linear":
        found["regularization_c"] = config.regularization_c
    return found


def counts(result: EvaluationResult) -> dict[str, Any]:
    """The numbers of a result."""
    return {
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "count": result.count,
        "correct1": result.correct1,
        "correct5": result.correct5,
    }


def results_folder(config: EvalConfig, target: EvalTarget) -> Path:
    """Where the files go, made where it is missing: ``out``, else ``RUN/evaluation`` for a run's checkpoint and
    ``NAME_evaluation`` beside a lone file."""
    run = run_folder_of(target.file)
    if config.out:
        folder = Path(config.out)
    elif run is not None:
        folder = run / "evaluation"
    else:
        folder = target.file.with_name(f"{target.file.stem}_evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_stem(config: EvalConfig, target: EvalTarget, judged_on: str) -> str:
    """How the files' names begin: the data, what was judged on, and what was done to model or images."""
    stem = f"{file_name(target.data.name)}-{judged_on}"
    if config.zero_learned:
        stem += "-zeroed"
    if config.polyphase_anchoring:
        stem += "-anchored"
    if target.reduced:
        stem += f"-{fewer_tokens.stem(target.reduced)}"
    return stem if config.metric == BY_CLASSIFIER else f"{stem}-{config.metric}"


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file; folder names need not be UTF-8: their other bytes are written as \\udcXX."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows(rows)
