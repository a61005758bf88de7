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
from vitaos.study.run_files import read_config, read_epochs, read_last_session

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
        model: the backbone, its depth left out of the name.
        depth: blocks; None where neither the configuration nor the name says.
        technique: the techniques that are on, timm's register tokens among them, or ``plain``.
    """

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    session: dict[str, Any]
    model: str
    depth: int | None
    technique: str

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
    config = flatten(read_config(folder / "config.yaml"), technique_flags)
    metrics = read_epochs(folder / "metrics.jsonl")
    model, own_depth = identify(config["model.name"])
    gain = config.get("skip_gain")  # a family of its own for each dose, with its own plain runs
    stages = config.get("model.keywords.depths") or ()
    depth = config.get("depth") or config.get("model.keywords.depth") or sum(stages) or own_depth
    return Run(
        path=folder,
        config=config,
        metrics=metrics,
        session=read_last_session(folder / "environment.json"),
        model=model if gain in (None, 1) else f"{model}-r{gain}",
        depth=None if depth is None else int(depth),
        technique=_technique_name(config, technique_flags),
    )


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
