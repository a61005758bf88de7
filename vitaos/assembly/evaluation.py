"""An evaluation: a checkpoint's right answers on one dataset, or on a suite of them, and their report."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vitaos.assembly import corrupted, imagenet, suite
from vitaos.assembly.eval_target import EvalTarget, build_loader, resolve_checkpoint
from vitaos.assembly.evaluation_report import Report
from vitaos.assembly.judge import Judges, answer_names
from vitaos.config import EvalConfig
from vitaos.optional import require
from vitaos.runtime.world import World, initialize


class EvaluationReport(Protocol):
    """What every evaluation ends in."""

    def table(self) -> str:
        """The outcome for the screen."""

    def summary(self) -> dict[str, Any]:
        """The outcome as plain values."""

    def write(self) -> list[Path]:
        """Write the files and return their paths."""


def evaluate(config: EvalConfig) -> tuple[EvaluationReport, list[Path]]:
    """One evaluation: checkpoint -> model and data -> counts -> a report.

    Returns:
        The report, and the files written; those only on the main rank.

    Raises:
        ValueError: no checkpoint is given, or it or the data cannot be used.
    """
    _check(config)
    assert config.checkpoint is not None
    world = initialize(config.device)
    target = resolve_checkpoint(config, config.checkpoint)
    report: EvaluationReport
    if config.suite:
        report = suite.evaluate(config, target, world)
    elif config.dataset == "c":
        report = corrupted.evaluate(config, target, world)
    else:
        report = evaluate_dataset(config, target, world)
    return report, report.write() if world.is_main else []


def _check(config: EvalConfig) -> None:
    """Refuse what does not go together, and packages that are missing, before anything is read."""
    if not config.checkpoint:
        raise ValueError("checkpoint=RUN_OR_FILE is missing: a run folder, or a .pt, .pth or .safetensors file")
    if config.suite and config.dataset != "val":
        raise ValueError(f"suite={config.suite} judges on every dataset: leave dataset={config.dataset} out")
    if config.corrupt and config.dataset != "c" and not config.suite:
        raise ValueError("corrupt=true makes the corruptions of ImageNet-C: add dataset=c, or suite=all")
    if config.metric == "knn" and not config.k:
        raise ValueError("k=[]: metric=knn needs at least one number of neighbors, as k=20")
    if config.robustness and (config.metric != "classifier" or config.dataset == "c"):
        raise ValueError(
            f"robustness={config.robustness} asks the classifier on images as they are: leave metric={config.metric} "
            f"and dataset={config.dataset} out"
        )
    if config.calibration:
        require("torchmetrics", "calibration=true", extra="judge")
    if config.corrupt:
        require("imagecorruptions", "corrupt=true", extra="judge")


def evaluate_dataset(config: EvalConfig, target: EvalTarget, world: World) -> Report:
    """The report on ``config.dataset``."""
    if (layout := imagenet.layout(config.dataset)) is not None:
        target = replace(target, data=replace(target.data, prepare=layout))
    known = answer_names(config, target, world)
    with closing(build_loader(config, target, world)) as loader:
        classes = imagenet.match_classes(config.dataset, known, loader.class_names, target.file)
        labels = imagenet.real_labels(loader.file_names(), config.real_labels) if config.dataset == "real" else None
        judgments = Judges(config, target, classes.answers, world).judge(loader, classes, labels)
        return Report(config, target, loader.class_names, judgments)
