"""An evaluation: what is judged, on which images, which of its answers count, and what is reported."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitaos.assembly import builders, imagenet
from vitaos.assembly import fingerprint as identity
from vitaos.checkpoint.safe_load import load_file
from vitaos.checkpoint.store import FORMAT, find_newest
from vitaos.config import DataConfig, EvalConfig, RecipeConfig, TrainConfig, techniques_of
from vitaos.data import EvalLoader
from vitaos.engine.evaluator import EvaluationResult, evaluate
from vitaos.engine.precision import build_precision
from vitaos.outputs.environment import versions
from vitaos.runtime.world import World
from vitaos.weights import load as weight_files
from vitaos.weights.names import EMA_KEYS


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        path: the file.
        content: what it holds.
        described: the configuration that builds its model: the run's own, or for a foreign file the command line's.
        data: where the images lie; their size and normalisation are those the model was trained with.
        recipe: brings the evaluation's crop.
        class_names: what the model's answers mean, in their order; None where the file does not say.
    """

    path: Path
    content: Mapping[str, Any]
    described: TrainConfig | EvalConfig
    data: DataConfig
    img_size: int
    recipe: RecipeConfig
    class_names: list[str] | None

    def choose_weights(self, wanted: str) -> list[str]:
        """``raw`` and ``ema`` as asked for; ``both`` means those that the file has.

        Raises:
            ValueError: the running average is asked for, and there is none.
        """
        has_average = any(self.content.get(key) is not None for key in EMA_KEYS)
        if wanted == "ema" and not has_average:
            raise ValueError(f"weights=ema: {self.path} holds no running average of the weights; use weights=raw")
        return {"raw": ["raw"], "ema": ["ema"], "both": ["raw", "ema"] if has_average else ["raw"]}[wanted]


def open_subject(config: EvalConfig) -> Subject:
    """Read the checkpoint and decide what describes it.

    Raises:
        ValueError: no such checkpoint, or a foreign file without ``model`` or ``data``.
    """
    if not config.checkpoint:
        raise ValueError("checkpoint=RUN_OR_FILE is missing: a run folder, or a .pt, .pth or .safetensors file")
    path = _file_of(Path(config.checkpoint))
    content = load_file(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no weights: expected a dict, found {type(content).__name__}")
    if content.get("format") == FORMAT:
        run: TrainConfig = identity.restore(content["config"])
        data = _located(run.data, config.data)
        size = config.img_size or run.data.img_size
        return Subject(path, content, run, data, size, run.recipe, content.get("class_names"))
    if config.model is None or config.data is None:
        raise ValueError(
            f"{path} is no vitaos checkpoint and does not say what it is: add model=NAME (with depth and techniques as "
            "it was trained) and data=..., for example model=deit_s24 attnscale=true data=imagenet data.root=DIR"
        )
    return Subject(path, content, config, config.data, config.img_size or config.data.img_size, config.recipe, None)


def loader_of(config: EvalConfig, subject: Subject, world: World) -> EvalLoader:
    """This rank's share of the images."""
    crop = config.eval_crop or subject.recipe.eval_crop
    return builders.eval_loader_of(
        subject.data, world=world, img_size=subject.img_size, eval_crop=crop, batch_size=config.batch_size
    )


def model_of(subject: Subject, classes: imagenet.Classes) -> nn.Module:
    """The model, without the dropout of its training."""
    return builders.model_of(subject.described, classes.answers, img_size=subject.img_size)


def judge(
    config: EvalConfig,
    subject: Subject,
    model: nn.Module,
    weights: str,
    *,
    loader: EvalLoader,
    classes: imagenet.Classes,
    world: World,
) -> EvaluationResult:
    """Load one kind of weights into the model and count its right answers, on all ranks together."""
    try:
        weight_files.load_weights(model, subject.content, weights="ema" if weights == "ema" else "model")
    except ValueError as error:
        raise ValueError(f"{subject.path}: {error}") from error
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return evaluate(
        model,
        loader,
        builders.normalize_of(subject.data),
        world=world,
        precision=build_precision(config.precision, world.device),
        num_classes=classes.classes,
        class_indices=classes.indices,
        real_labels=imagenet.real_labels(loader.file_names(), config.real_labels) if config.dataset == "real" else None,
    )


class Report:
    """The outcome of an evaluation as a table, as JSON and, by class, as CSV."""

    def __init__(
        self, config: EvalConfig, subject: Subject, names: Sequence[str], results: Mapping[str, EvaluationResult]
    ) -> None:
        self.config, self.subject, self.names, self.results = config, subject, names, results

    def table(self) -> str:
        """A line for each kind of weights."""
        lines = [f"{self.subject.path} on {self.subject.data.name} ({self.config.dataset})"]
        lines += [
            f"{weights:>4}  top-1 {result.top1:6.2f}%  top-5 {result.top5:6.2f}%  loss {result.loss:.4f}  "
            f"images {result.count:,}"
            for weights, result in self.results.items()
        ]
        return "\n".join(lines)

    def write(self) -> list[Path]:
        """Write both files and return their paths."""
        folder = Path(self.config.out) if self.config.out else _folder_for(self.subject.path)
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.subject.data.name}-{self.config.dataset}"
        summary, by_class = folder / f"{stem}.json", folder / f"{stem}-classes.csv"
        summary.write_text(json.dumps(self._summary(), indent=2) + "\n", encoding="utf-8")
        with by_class.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._rows())
        return [summary, by_class]

    def _summary(self) -> dict[str, Any]:
        described = self.subject.described
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
            "checkpoint": str(self.subject.path),
            "model": described.model.name,
            "depth": described.depth,
            "techniques": techniques_of(described, identity.TOGGLES),
            "data": self.subject.data.name,
            "dataset": self.config.dataset,
            "img_size": self.subject.img_size,
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


def _file_of(path: Path) -> Path:
    """A run folder means its newest whole checkpoint."""
    if not path.is_dir():
        return path
    found = find_newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    if found is None:
        raise ValueError(f"checkpoint={path}: no checkpoint in that folder; expected a run folder or a file")
    return found.path


def _folder_for(checkpoint: Path) -> Path:
    """Beside the checkpoint: ``RUN/evaluation`` for a run's, ``NAME_evaluation`` for a lone file."""
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent / "evaluation"
    return checkpoint.with_name(f"{checkpoint.stem}_evaluation")


def _located(trained_on: DataConfig, elsewhere: DataConfig | None) -> DataConfig:
    """The data of the command line, seen as the model was trained to see images."""
    if elsewhere is None:
        return trained_on
    elsewhere.mean, elsewhere.std, elsewhere.resize = trained_on.mean, trained_on.std, trained_on.resize
    return elsewhere
