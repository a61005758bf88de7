"""Cells of a study: runs that differ in the seed alone, compared with the plain runs of their depth.

Runs of the same model, data, depth and techniques form a cell; a cell is averaged over seeds, and over nothing else.
"""

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from scipy.stats import ttest_ind

from vitaos.study.budget import Budget, CostOf, budget_of, excess
from vitaos.study.choice import Choice
from vitaos.study.labels import blocks_text
from vitaos.study.runs import PLAIN, REGISTERS, Run, UnreadableRun
from vitaos.study.sameness import check_only_seed_differs, differing_keys

__all__ = [
    "CONFIDENCE",
    "TOLERANCE",
    "Cell",
    "Difference",
    "Study",
    "build_study",
    "depth_differences",
    "welch_difference",
]

CONFIDENCE: Final = 0.95
TOLERANCE: Final = 0.2
"""A technique may cost this share more than the plain network, in parameters or operations, and still be compared."""
_MONITORED: Final = ("token_similarity", "hf_dc_ratio")  # measured by the monitor, on monitor.images images


@dataclass(frozen=True)
class Difference:
    """Mean of one cell minus mean of the plain one, with its confidence interval and p-value by Welch's t.

    ``interval`` (low, high) and ``p_value`` are None where none can be had: one of the two has a single run, or neither
    has any spread, which shows the small number of runs and of held-out images rather than certainty.
    """

    value: float
    interval: tuple[float, float] | None = None
    p_value: float | None = None


def welch_difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Mean of `one` minus mean of `other`, its confidence interval and p-value; the variances may differ."""
    value = mean(one) - mean(other)
    if min(len(one), len(other)) < 2 or stdev(one) == stdev(other) == 0:
        return Difference(value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # one side without spread is sound here
        test = ttest_ind(np.asarray(one), np.asarray(other), equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(value, (float(interval.low), float(interval.high)), float(test.pvalue))


@dataclass(frozen=True)
class Cell:
    """Runs that differ in the seed alone, what each of them spent, and what they reached."""

    model: str
    data: str
    depth: int | None
    technique: str
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    budget: Budget
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
    """Everything that a report shows.

    Attributes:
        cells: ordered by model, data, depth, plain first.
        unfinished: runs that were left out.
        metric: key of ``metrics.jsonl`` that was read, at the last epoch.
        notes: comparisons that could not be made and why.
        unreadable: run folders with damaged files.
        tolerance: how much more than plain a technique may cost and still be compared, as a share.
        choices: what every setting tried of a key, and which value of it was taken on held-out images.
    """

    cells: tuple[Cell, ...]
    unfinished: tuple[Run, ...]
    metric: str
    notes: tuple[str, ...]
    unreadable: tuple[UnreadableRun, ...] = ()
    tolerance: float = TOLERANCE
    choices: tuple[Choice, ...] = ()

    @property
    def tuned(self) -> str | None:
        """The key of which settings have a value of their own, chosen on held-out images; None where none was tuned."""
        return next((choice.key for choice in self.choices if len(choice.trials) > 1), None)

    @property
    def techniques(self) -> list[str]:
        """In order of first appearance with plain in front: the numbers of the colors."""
        return sorted(dict.fromkeys(cell.technique for cell in self.cells), key=lambda name: name != PLAIN)


def build_study(
    runs: Sequence[Run],
    *,
    technique_flags: Sequence[str],
    metric: str = "auto",
    unreadable: Sequence[UnreadableRun] = (),
    cost_of: CostOf | None = None,
    tolerance: float = TOLERANCE,
    tuned: Collection[str] = (),
) -> Study:
    """Group finished runs into cells and compare every cell with the plain one of its depth.

    Args:
        runs: all runs, finished or not.
        technique_flags: as in :func:`read_runs`.
        metric: a key of ``metrics.jsonl``; ``auto`` takes ``ema_top1`` if every finished run has it, else ``val_top1``.
        unreadable: damaged run folders, to be listed.
        cost_of: counts a run's model; without it epochs and images alone are compared.
        tolerance: a technique whose model needs a larger share more of parameters or operations than the plain one is
            not compared with it.
        tuned: keys that each technique has a value of its own for.

    Raises:
        ValueError: no finished run; runs of a cell that differ in more than the seed, or do not differ at all (what
            differs, and where, is in the message); a run without the metric.
    """
    finished = [run for run in runs if run.is_finished]
    if not finished:
        raise ValueError(f"no finished run among {len(runs)} run folder(s): nothing to report yet")
    if metric == "auto":
        metric = "ema_top1" if all(run.metrics[-1].get("ema_top1") is not None for run in finished) else "val_top1"
    finished, without_number = _with_number(finished, metric)
    groups: dict[tuple[str, str, int | None, str], list[Run]] = {}
    for run in finished:
        key = (run.model, run.data, run.depth, run.technique)
        groups.setdefault(key, []).append(run)
    extra_keys = ("monitor",) if metric in _MONITORED else ()  # its settings matter to what it measures
    is_known = any(metric in run.metrics[-1] for run in finished)
    cells, without = [], []
    for (model, data, depth, technique), members in groups.items():
        if is_known and not any(metric in run.metrics[-1] for run in members):
            without.append(f"{_describe(members[0])}: left out, its runs have no {metric}.")
            continue
        check_only_seed_differs(members, _describe(members[0]), extra_keys)
        values = tuple(_value(run, metric) for run in members)
        budget = budget_of(members[0], cost_of)
        cells.append(Cell(model, data, depth, technique, tuple(members), values, budget))
    order = sorted(
        cells, key=lambda cell: (cell.model, cell.data, cell.depth or 0, _rank(cell.technique, technique_flags))
    )
    compared, notes = _compare(order, {*technique_flags, *tuned}, extra_keys, tolerance)
    unfinished = tuple(run for run in runs if not run.is_finished)
    return Study(compared, unfinished, metric, (*without, *notes), (*unreadable, *without_number), tolerance)


def depth_differences(study: Study, shallow: Cell, deep: Cell) -> str:
    """What differs between two cells of one family beside depth, seed and a key that each has its own value of, as
    text; empty where nothing does."""
    return differing_keys([shallow.runs[0], deep.runs[0]], {"seed", *(choice.key for choice in study.choices)})


def _compare(
    cells: Sequence[Cell], tuned: Collection[str], extra_keys: Collection[str], tolerance: float
) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    plain = {(cell.model, cell.data, cell.depth): cell for cell in cells if cell.technique == PLAIN}
    compared, notes = [], []
    for cell in cells:
        baseline = plain.get((cell.model, cell.data, cell.depth))
        difference = None
        if cell is not baseline:
            name = _describe(cell)
            if baseline is None:
                notes.append(f"{name}: no finished plain run of this depth to compare with.")
            else:
                differing = differing_keys([cell.runs[0], baseline.runs[0]], {"seed", *tuned}, extra_keys)
                dearer = excess(cell.budget, baseline.budget, tolerance)
                if dearer and not differing:
                    differing = f"it has no equal budget: {dearer}"
                if differing:
                    notes.append(f"{name}: not compared with plain, because {differing}.")
                else:
                    difference = welch_difference(cell.values, baseline.values)
        compared.append(replace(cell, difference=difference))
    return tuple(compared), tuple(notes)


def _describe(one: "Cell | Run") -> str:
    return f"{one.model}{blocks_text(one.depth)}, {one.technique}"


def _with_number(runs: Sequence[Run], metric: str) -> tuple[list[Run], list[UnreadableRun]]:
    """The runs, without those whose metric is something else than a finite number.

    Raises:
        ValueError: none is left.
    """
    damaged = [run for run in runs if metric in run.metrics[-1] and not _is_number(run.metrics[-1][metric])]
    reasons = [
        UnreadableRun(run.path, f"metric={metric}: it is no finite number in the last line of metrics.jsonl")
        for run in damaged
    ]
    if len(damaged) == len(runs):
        raise ValueError(f"{reasons[0].path}: {reasons[0].reason}; {len(runs)} finished run(s), none can be reported")
    return [run for run in runs if run not in damaged], reasons


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _value(run: Run, metric: str) -> float:
    if metric not in run.metrics[-1]:
        known = sorted(key for key, item in run.metrics[-1].items() if _is_number(item))
        raise ValueError(f"metric={metric}: the last line of {run.path / 'metrics.jsonl'} has {', '.join(known)}")
    return float(run.metrics[-1][metric])


def _rank(technique: str, technique_flags: Sequence[str]) -> tuple[int, list[int], str]:
    """Plain first, then single techniques in the registry's order, then combinations."""
    if technique == PLAIN:
        return 0, [], ""
    names = [part.partition("(")[0] for part in technique.split(" + ")]
    known = [*technique_flags, REGISTERS]
    return len(names), [known.index(name) for name in names], technique
