"""A depth-scaling study read back from its run folders: which runs are done, which may be averaged, what they differ
by.

A run folder holds ``config.yaml`` (the resolved configuration) and ``metrics.jsonl`` (one line an epoch). Runs of the
same model, data, depth and techniques form a cell of the study; a cell is averaged over seeds, and over nothing else.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from omegaconf import OmegaConf

from vitaos.config import LOCAL, TrainConfig, flatten, marked_keys
from vitaos.metrics_reader import read_metrics
from vitaos.study.welch import Difference, welch

__all__ = ["PLAIN", "Cell", "Run", "Study", "read_runs", "study_of"]

PLAIN: Final = "plain"
# Where a run ran, what it was called, how much it told, and what every cell holds alike.
_LOCAL: Final = (
    *marked_keys(TrainConfig, LOCAL),
    *("model.name", "depth", "model.keywords.depth"),  # the cell has them: deit_s12 with depth=24 is deit_s24
    "model.keywords.reg_tokens",  # the technique's name has them
)
_REGISTERS: Final = "register_tokens"
_MONITORED: Final = ("token_similarity", "hf_dc_ratio")  # what the monitor measures, on as many images as it is told


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
class Cell:
    """Runs that differ in the seed alone, and what they reached."""

    model: str
    data: str
    depth: int | None
    technique: str
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    difference: Difference | None = None

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds; None for one run."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Study:
    """Everything the report says.

    Attributes:
        cells: ordered by model, data, depth, plain first.
        unfinished: runs that were left out.
        metric: key of ``metrics.jsonl`` that was read, at the last epoch.
        notes: comparisons that could not be made and why.
    """

    cells: tuple[Cell, ...]
    unfinished: tuple[Run, ...]
    metric: str
    notes: tuple[str, ...]

    @property
    def techniques(self) -> list[str]:
        """In order of first appearance with plain in front: the numbers of the colours."""
        return sorted(dict.fromkeys(cell.technique for cell in self.cells), key=lambda name: name != PLAIN)


def read_runs(
    folders: Iterable[Path], *, toggles: Sequence[str], identify: Callable[[str], tuple[str, int | None]]
) -> list[Run]:
    """Read run folders; folders without ``config.yaml`` are no runs and are passed over.

    Args:
        folders: candidates.
        toggles: keys of the configuration that switch a technique.
        identify: a model's name to the backbone's name without depth and its own depth (``deit_s24`` to ``deit_s``, 24;
            None where the name does not say).
    """
    runs = []
    for folder in sorted(folders):
        file = folder / "config.yaml"
        if not file.is_file():
            continue
        config = flatten(OmegaConf.to_container(OmegaConf.load(file), resolve=True), toggles)
        model, own_depth = identify(str(config.get("model.name")))
        gain = config.get("skip_gain")  # a family of its own for each dose, with its own plain runs
        stages = config.get("model.keywords.depths") or ()
        depth = config.get("depth") or config.get("model.keywords.depth") or sum(stages) or own_depth
        runs.append(
            Run(
                path=folder,
                config=config,
                metrics=read_metrics(folder / "metrics.jsonl"),
                session=_last_session(folder / "environment.json"),
                model=model if gain in (None, 1) else f"{model}-r{gain}",
                depth=None if depth is None else int(depth),
                technique=_technique_of(config, toggles),
            )
        )
    return runs


def study_of(runs: Sequence[Run], *, toggles: Sequence[str], metric: str = "auto") -> Study:
    """Group finished runs into cells and compare every cell with the plain one of its depth.

    Args:
        runs: all runs, finished or not.
        toggles: as in :func:`read_runs`.
        metric: a key of ``metrics.jsonl``; ``auto`` takes ``ema_top1`` if every finished run has it, else ``val_top1``.

    Raises:
        ValueError: no finished run; runs of a cell that differ in more than the seed, or do not differ at all (what
            differs, and where, is in the message); a run without the metric.
    """
    finished = [run for run in runs if run.is_finished]
    if not finished:
        raise ValueError(f"no finished run among {len(runs)} run folder(s): nothing to report yet")
    if metric == "auto":
        metric = "ema_top1" if all(run.metrics[-1].get("ema_top1") is not None for run in finished) else "val_top1"
    groups: dict[tuple[str, str, int | None, str], list[Run]] = {}
    for run in finished:
        key = (run.model, str(run.config.get("data.name")), run.depth, run.technique)
        groups.setdefault(key, []).append(run)
    heeded = ("monitor",) if metric in _MONITORED else ()  # its settings matter to what it measures
    is_known = any(metric in run.metrics[-1] for run in finished)
    cells, without = [], []
    for (model, data, depth, technique), members in groups.items():
        if is_known and not any(metric in run.metrics[-1] for run in members):
            without.append(f"{_in_words(members[0])}: left out, its runs have no {metric}.")
            continue
        _check_only_seed_differs(members, heeded)
        values = tuple(_value(run, metric) for run in members)
        cells.append(Cell(model, data, depth, technique, tuple(members), values))
    order = sorted(cells, key=lambda cell: (cell.model, cell.data, cell.depth or 0, _rank(cell.technique, toggles)))
    compared, notes = _compare(order, toggles, heeded)
    return Study(compared, tuple(run for run in runs if not run.is_finished), metric, (*without, *notes))


def _compare(
    cells: Sequence[Cell], toggles: Sequence[str], heeded: Collection[str]
) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    plain = {(cell.model, cell.data, cell.depth): cell for cell in cells if cell.technique == PLAIN}
    compared, notes = [], []
    for cell in cells:
        baseline = plain.get((cell.model, cell.data, cell.depth))
        difference = None
        if cell is not baseline:
            name = _in_words(cell)
            if baseline is None:
                notes.append(f"{name}: no finished plain run of this depth to compare with.")
            else:
                differing = _differing([cell.runs[0], baseline.runs[0]], {"seed", *toggles}, heeded)
                if differing:
                    notes.append(f"{name}: not compared with plain, because {differing}.")
                else:
                    difference = welch(cell.values, baseline.values)
        compared.append(replace(cell, difference=difference))
    return tuple(compared), tuple(notes)


def _in_words(one: "Cell | Run") -> str:
    depth = "" if one.depth is None else f", {one.depth} blocks"
    return f"{one.model}{depth}, {one.technique}"


def _check_only_seed_differs(runs: Sequence[Run], heeded: Collection[str]) -> None:
    differing = _differing(runs, {"seed"}, heeded)
    name = _in_words(runs[0])
    if differing:
        raise ValueError(
            f"the runs of {name} cannot be averaged, they differ in more than the seed: {differing}. "
            "Report them apart (runs=...)"
        )
    by_seed: dict[Any, Run] = {}
    for run in runs:
        if run.seed in by_seed:
            raise ValueError(
                f"{by_seed[run.seed].path} and {run.path} are the same run of {name} (seed {run.seed}): averaging both "
                "would count it twice. Leave one out (runs=...)"
            )
        by_seed[run.seed] = run


def _differing(runs: Sequence[Run], ignored: set[str], heeded: Collection[str] = ()) -> str:
    """Which keys differ between runs, with the values and a folder for each; empty when none do.

    Of the keys that otherwise do not count, those below ``heeded`` do.
    """
    descriptions = []
    essences = [_essence(run, {*_LOCAL, *ignored} - set(heeded)) for run in runs]
    for key in sorted({key for essence in essences for key in essence}):
        values: dict[str, Path] = {}
        for run, essence in zip(runs, essences, strict=True):
            values.setdefault(str(essence.get(key)), run.path)
        if len(values) > 1:
            places = " against ".join(f"{value} ({path.name})" for value, path in values.items())
            descriptions.append(f"{key}: {places}")
    return "; ".join(descriptions)


def _essence(run: Run, ignored: set[str]) -> dict[str, Any]:
    """What the run computed. How a global batch is cut into processes and micro-batches does not change it."""
    prefixes = tuple(f"{name}." for name in ignored)
    essence = {key: value for key, value in run.config.items() if key not in ignored and not key.startswith(prefixes)}
    world = run.session.get("world_size")
    if isinstance(world, int) and "batch_size" in essence:
        essence["global batch"] = essence.pop("batch_size") * essence.pop("accumulate", 1) * world
    if run.metrics:  # data of one name in two places may be two datasets: their sizes tell
        essence["steps an epoch"] = run.metrics[-1].get("step", 0) / max(1, run.epochs_done)
    return essence


def _value(run: Run, metric: str) -> float:
    value = run.metrics[-1].get(metric)
    if not isinstance(value, (int, float)):
        if metric in run.metrics[-1]:
            raise ValueError(
                f"metric={metric}: it is no finite number in the last line of {run.path / 'metrics.jsonl'}"
            )
        known = sorted(key for key, item in run.metrics[-1].items() if isinstance(item, (int, float)))
        raise ValueError(f"metric={metric}: the last line of {run.path / 'metrics.jsonl'} has {', '.join(known)}")
    return float(value)


def _technique_of(config: Mapping[str, Any], toggles: Sequence[str]) -> str:
    switched = []
    for name in toggles:
        value = config.get(name)
        if isinstance(value, Mapping) and value:
            switched.append(f"{name}({', '.join(f'{key}={value[key]}' for key in sorted(value))})")
        elif value not in (None, False):
            switched.append(name)
    registers = config.get("model.keywords.reg_tokens")
    if registers:
        switched.append(f"{_REGISTERS}({registers})")
    return " + ".join(switched) or PLAIN


def _rank(technique: str, toggles: Sequence[str]) -> tuple[int, list[int], str]:
    """Plain first, then single techniques in the registry's order, then combinations."""
    if technique == PLAIN:
        return 0, [], ""
    names = [part.partition("(")[0] for part in technique.split(" + ")]
    known = [*toggles, _REGISTERS]
    return len(names), [known.index(name) for name in names], technique


def _last_session(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["sessions"][-1])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}
