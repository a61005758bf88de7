"""Runs read back from their folders: configuration, epochs, and what names the run in a study.

A run folder holds ``config.yaml`` (the resolved configuration), ``metrics.jsonl`` (one line an epoch) and
``environment.json``. What stands in it is data: nothing of it is resolved, imported or run.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vitaos.config import flatten
from vitaos.study.run_files import read_config, read_epochs, read_sessions

__all__ = ["PLAIN", "REGISTERS", "Run", "UnreadableRun", "read_runs"]

PLAIN: Final = "plain"
REGISTERS: Final = "register_tokens"


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: the folder.
        config: its configuration, flattened to dotted keys.
        metrics: its epochs, in order.
        session: its last start in ``environment.json``: command, hardware, processes; empty where there is none.
        backbone: the model's name without its depth.
        skip_gain: gain of the residual around attention; 1 is the ordinary network.
        depth: blocks; None where neither the configuration nor the name gives it.
        technique: the techniques that are on, timm's register tokens among them, or ``plain``.
        planned_epochs: those of its schedule, in order: more than one where it was continued with others.
    """

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    session: dict[str, Any]
    backbone: str
    skip_gain: float
    depth: int | None
    technique: str
    planned_epochs: tuple[int, ...] = ()

    @property
    def model(self) -> str:
        """The backbone, and the skip gain where it is not 1: each is a family with plain runs of its own."""
        return self.backbone if self.skip_gain == 1 else f"{self.backbone}-r{self.skip_gain}"

    @property
    def data(self) -> str:
        """The dataset's name."""
        return str(self.config.get("data.name"))

    @property
    def global_batch(self) -> int | None:
        """Images of a global step over all processes; None where the folder does not record it."""
        batch_size, processes = self.config.get("batch_size"), self.session.get("world_size")
        if batch_size is None or not isinstance(processes, int):
            return None
        return int(batch_size) * int(self.config.get("accumulate", 1)) * processes

    @property
    def images_seen(self) -> int | None:
        """Training images up to the last epoch; None where the folder does not record the global batch."""
        if self.global_batch is None or not self.metrics:
            return None
        return int(self.metrics[-1]["step"]) * self.global_batch

    @property
    def last_step(self) -> int | None:
        """The global step of its last epoch; None where its metrics do not say it."""
        return self.metrics[-1].get("step") if self.metrics else None

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def epochs_done(self) -> int:
        return int(self.metrics[-1].get("epoch", -1)) + 1 if self.metrics else 0

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch, or the last step asked for, is in the metrics."""
        if not self.metrics:
            return False
        steps = self.config.get("steps")
        by_steps = steps is not None and self.metrics[-1].get("step", 0) >= steps
        return by_steps or self.epochs_done >= int(self.config.get("epochs", math.inf))


@dataclass(frozen=True)
class UnreadableRun:
    """A run folder with a damaged file: where, and what is wrong with it."""

    path: Path
    reason: str


def read_runs(
    folders: Iterable[Path], *, technique_flags: Sequence[str], identify: Callable[[str], tuple[str, int | None]]
) -> tuple[list[Run], list[UnreadableRun]]:
    """Read run folders; folders without ``config.yaml`` are no runs and are passed over.

    Args:
        folders: candidates.
        technique_flags: keys of the configuration that switch a technique.
        identify: a model's name to the backbone's name without depth and its own depth (``deit_s24`` to ``deit_s``, 24;
            None where the name has none).

    Returns:
        The runs, and the folders whose files are damaged.
    """
    runs, unreadable = [], []
    for folder in sorted(folders):
        if not (folder / "config.yaml").exists():
            continue
        try:
            runs.append(_read_run(folder, technique_flags, identify))
        except (OSError, ValueError) as error:
            unreadable.append(UnreadableRun(folder, str(error)))
    return runs, unreadable


def _read_run(folder: Path, technique_flags: Sequence[str], identify: Callable[[str], tuple[str, int | None]]) -> Run:
    config: dict[str, Any] = dict.fromkeys(technique_flags, False)  # of techniques that came after the run: off
    config |= flatten(read_config(folder / "config.yaml"), technique_flags)
    metrics = read_epochs(folder / "metrics.jsonl")
    backbone, own_depth = identify(config["model.name"])
    gain = config.get("skip_gain")
    stages = config.get("model.keywords.depths") or ()
    depth = config.get("depth") or config.get("model.keywords.depth") or sum(stages) or own_depth
    sessions = read_sessions(folder / "environment.json")
    return Run(
        path=folder,
        config=config,
        metrics=metrics,
        session=sessions[-1] if sessions else {},
        backbone=backbone,
        skip_gain=1.0 if gain is None else float(gain),
        depth=None if depth is None else int(depth),
        technique=_technique_name(config, technique_flags),
        planned_epochs=_planned_epochs(sessions),
    )


def _planned_epochs(sessions: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The epochs of each part of a run, in order; a start that was given up before it took a step was no part of it."""
    parts = [start for start in sessions if "epochs" in start]
    steps = [start["from_step"] for start in parts]
    followed_at = [*steps[1:], None]
    taken = [part["epochs"] for part, step, after in zip(parts, steps, followed_at, strict=False) if step != after]
    return tuple(epochs for index, epochs in enumerate(taken) if index == 0 or epochs != taken[index - 1])


def _technique_name(config: Mapping[str, Any], technique_flags: Sequence[str]) -> str:
    switched = []
    for name in technique_flags:
        value = config.get(name)
        if isinstance(value, Mapping) and value:
            switched.append(f"{name}({', '.join(f'{key}={value[key]}' for key in sorted(value))})")
        elif value not in (None, False):
            switched.append(name)
    registers = config.get("model.keywords.reg_tokens")
    if registers:
        switched.append(f"{REGISTERS}({registers})")
    return " + ".join(switched) or PLAIN
