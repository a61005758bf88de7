"""The dose-response of a study: what each technique reaches at each ``skip_gain``, and how sure its difference is.

Runs that differ in ``skip_gain`` alone form one response; at every dose, each technique is compared with the plain runs
of that dose: over seeds by Welch's t, corrected over the techniques of the dose by Holm, seed by seed, and over images
and seeds by the bootstrap where ``eval.py`` left its predictions (``RUN/evaluation/*-val-predictions.npz``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from vitaos.study.cells import CONFIDENCE, Cell, Study
from vitaos.study.run_files import read_step, read_top1
from vitaos.study.runs import PLAIN, Run
from vitaos.study.significance import bootstrap_interval, half_width, holm, paired_interval

__all__ = ["MONITORED", "DosePoint", "DoseResponse", "build_dose_responses"]

MONITORED: Final = {"token_similarity": "token similarity", "hf_dc_ratio": "HF / DC of tokens"}
"""Measures by block of the monitor, and their names on an axis."""

_ANSWERS: Final = {"val_top1": "raw_correct", "ema_top1": "ema_correct"}
"""Of which weights a metric is the accuracy, as ``eval.py`` calls their answers by image."""


@dataclass(frozen=True)
class DosePoint:
    """One technique at one dose.

    Attributes:
        skip_gain: the dose; 1 is the ordinary network.
        cell: its runs, their values and the difference to the plain ones of the same dose.
        p_value: of that difference by Welch's t, corrected by Holm over the techniques of the dose; None without one.
        bootstrap: interval of the difference over images and seeds; None where predictions are missing.
        paired: interval of the difference seed by seed; None without two seeds in common.
        differences: to the plain run of the same seed, one for every seed that both have.
    """

    skip_gain: float
    cell: Cell
    p_value: float | None = None
    bootstrap: tuple[float, float] | None = None
    paired: tuple[float, float] | None = None
    differences: tuple[float, ...] = ()

    @property
    def by_seed(self) -> dict[Any, float]:
        """Value of each run by its seed."""
        return {run.seed: value for run, value in zip(self.cell.runs, self.cell.values, strict=True)}

    @property
    def half_width(self) -> float | None:
        """Half of the mean's 95% interval by Student's t; None for one run."""
        return half_width(self.cell.values, CONFIDENCE)

    @property
    def zeroed(self) -> float | None:
        """Top-1 with the learned values at 0, mean over seeds; None unless all runs were evaluated so."""
        found = [_read_zeroed(run) for run in self.cell.runs]
        known = [value for value in found if value is not None]
        return mean(known) if len(known) == len(found) else None

    def monitored(self, key: str) -> list[float] | None:
        """A value by block that the monitor measured, mean over seeds; ``initial_`` keys are of the first epoch."""
        lines = [_measured(run, key) for run in self.cell.runs]
        found = [line for line in lines if line is not None]
        return [mean(values) for values in zip(*found, strict=True)] if found else None

    def learned(self, name: str) -> list[float] | None:
        """Means over heads or channels of a learned parameter (``attn_scale``, ...) by block, mean over seeds."""
        return self.monitored(f"{name}_by_block")

    def after_last_block(self, key: str) -> float | None:
        """The last value of :meth:`monitored`; None where nothing was measured."""
        by_block = self.monitored(f"{key}_by_block")
        return None if by_block is None else by_block[-1]


@dataclass(frozen=True)
class DoseResponse:
    """The points of one backbone, dataset and depth, by falling dose."""

    model: str
    data: str
    depth: int | None
    points: tuple[DosePoint, ...]

    @property
    def doses(self) -> list[float]:
        """From the ordinary network down; a study of one dose has settings to compare, and no response."""
        return sorted({point.skip_gain for point in self.points}, reverse=True)

    def of(self, technique: str) -> list[DosePoint]:
        return sorted(
            (point for point in self.points if point.cell.technique == technique), key=lambda point: -point.skip_gain
        )


def build_dose_responses(study: Study) -> list[DoseResponse]:
    """One response for every backbone, dataset and depth."""
    groups: dict[tuple[str, str, int | None], list[DosePoint]] = {}
    for cell in study.cells:
        run = cell.runs[0]
        groups.setdefault((run.backbone, cell.data, cell.depth), []).append(DosePoint(run.skip_gain, cell))
    return [DoseResponse(*key, _compare(points, study.metric)) for key, points in groups.items()]


def _compare(points: Sequence[DosePoint], metric: str) -> tuple[DosePoint, ...]:
    compared = []
    for dose in sorted({point.skip_gain for point in points}, reverse=True):
        here = [point for point in points if point.skip_gain == dose]
        plain = next((point for point in here if point.cell.technique == PLAIN), None)
        if plain is None:
            compared += here
            continue
        differences = {point.cell.technique: point.cell.difference for point in here}
        tested = {name: found.p_value for name, found in differences.items() if found and found.p_value is not None}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        compared += [
            replace(
                point,
                p_value=corrected.get(point.cell.technique),
                bootstrap=_bootstrap(point, plain, metric),
                paired=_paired(point, plain),
                differences=_differences(point, plain),
            )
            for point in here
        ]
    return tuple(compared)


def _paired(point: DosePoint, plain: DosePoint) -> tuple[float, float] | None:
    return None if point.cell.difference is None else paired_interval(point.by_seed, plain.by_seed)


def _differences(point: DosePoint, plain: DosePoint) -> tuple[float, ...]:
    if point.cell.difference is None:
        return ()
    one, other = point.by_seed, plain.by_seed
    return tuple(one[seed] - other[seed] for seed in one if seed in other)


def _bootstrap(point: DosePoint, plain: DosePoint, metric: str) -> tuple[float, float] | None:
    """Of accuracies alone: those of other metrics are not known by image."""
    if point is plain or point.cell.difference is None or metric not in _ANSWERS:
        return None
    found = [_read_predictions(run, _ANSWERS[metric]) for run in (*point.cell.runs, *plain.cell.runs)]
    read = [predictions for predictions in found if predictions is not None]
    if len(read) < len(found) or any(not np.array_equal(read[0][0], target) for target, _ in read):
        return None
    correct = [right for _, right in read]
    split = len(point.cell.runs)
    return bootstrap_interval(np.stack(correct[:split]), np.stack(correct[split:]))


def _read_predictions(run: Run, answers: str) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Targets and whether the last weights were right, by image, as ``eval.py`` wrote them beside the run."""
    folder = run.path / "evaluation"
    files = sorted(folder.glob("*-val-predictions.npz"))
    if len(files) != 1 or read_step(folder, "*-val.json") not in (None, run.last_step):
        return None
    try:
        with np.load(files[0], allow_pickle=False) as arrays:
            return arrays["target"], arrays[answers].astype(bool)
    except (OSError, ValueError, KeyError, BadZipFile):  # damaged: as if there were none
        return None


def _read_zeroed(run: Run) -> float | None:
    """Top-1 of the last weights with w, s and t at 0, as ``eval.py zero_learned=true`` wrote it beside the run."""
    return read_top1(run.path / "evaluation", "*-val-zeroed.json")


def _measured(run: Run, key: str) -> list[float] | None:
    """The last epoch's line that has the key; of ``initial_`` keys there is one."""
    for line in reversed(run.metrics):
        value = line.get(key)
        if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
            return [float(item) for item in value]
    return None
