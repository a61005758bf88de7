"""The dose-response of a study: what each technique reaches at each ``skip_gain``, and how sure its difference is.

Runs that differ in ``skip_gain`` alone form one response; at every dose, each technique is compared with the plain runs
of that dose: over seeds by Welch's t, corrected over the techniques of the dose by Holm, and over images and seeds by
the bootstrap where ``eval.py`` left its predictions (``RUN/evaluation/*-val-predictions.npz``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from scipy.stats import ttest_ind

from vitaos.study.cells import CONFIDENCE, Cell, Study
from vitaos.study.runs import PLAIN, Run
from vitaos.study.significance import bootstrap_interval, holm

__all__ = ["DosePoint", "DoseResponse", "build_dose_responses", "skip_gain_of"]


@dataclass(frozen=True)
class DosePoint:
    """One technique at one dose.

    Attributes:
        skip_gain: the dose; 1 is the ordinary network.
        cell: its runs, their values and the difference to the plain ones of the same dose.
        p_value: of that difference by Welch's t, corrected by Holm over the techniques of the dose; None without one.
        bootstrap: interval of the difference over images and seeds; None where predictions are missing.
    """

    skip_gain: float
    cell: Cell
    p_value: float | None = None
    bootstrap: tuple[float, float] | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the mean's 95% interval by Student's t; None for one run."""
        values = self.cell.values
        if len(values) < 2:
            return None
        quantile = float(student_t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
        return quantile * stdev(values) / len(values) ** 0.5

    def monitored(self, key: str) -> list[float] | None:
        """A value by block that the monitor measured, mean over seeds; ``initial_`` keys are of the first epoch."""
        lines = [_measured(run, key) for run in self.cell.runs]
        found = [line for line in lines if line is not None]
        return [mean(values) for values in zip(*found, strict=True)] if found else None


@dataclass(frozen=True)
class DoseResponse:
    """The points of one backbone, dataset and depth, by technique (plain first) and falling dose."""

    model: str
    data: str
    depth: int | None
    points: tuple[DosePoint, ...]

    @property
    def doses(self) -> list[float]:
        return sorted({point.skip_gain for point in self.points}, reverse=True)

    def of(self, technique: str) -> list[DosePoint]:
        return sorted(
            (point for point in self.points if point.cell.technique == technique), key=lambda point: -point.skip_gain
        )


def skip_gain_of(run: Run) -> float:
    """The dose of a run; runs from before there was one have 1."""
    gain = run.config.get("skip_gain")
    return 1.0 if gain is None else float(gain)


def build_dose_responses(study: Study) -> list[DoseResponse]:
    """One response for every backbone, dataset and depth that has more than one dose."""
    groups: dict[tuple[str, str, int | None], list[DosePoint]] = {}
    for cell in study.cells:
        gain = cell.runs[0].config.get("skip_gain")
        key = (cell.model.removesuffix(f"-r{gain}"), cell.data, cell.depth)
        groups.setdefault(key, []).append(DosePoint(skip_gain_of(cell.runs[0]), cell))
    responses = [DoseResponse(*key, _compare(points)) for key, points in groups.items()]
    return [response for response in responses if len(response.doses) > 1]


def _compare(points: Sequence[DosePoint]) -> tuple[DosePoint, ...]:
    compared = []
    for dose in sorted({point.skip_gain for point in points}, reverse=True):
        here = [point for point in points if point.skip_gain == dose]
        plain = next((point for point in here if point.cell.technique == PLAIN), None)
        if plain is None:
            compared += here
            continue
        tested = [point for point in here if (found := point.cell.difference) and found.interval]
        corrected = holm([_welch_p(point.cell.values, plain.cell.values) for point in tested])
        p_values = {id(point): value for point, value in zip(tested, corrected, strict=True)}
        compared += [
            replace(point, p_value=p_values.get(id(point)), bootstrap=_bootstrap(point, plain)) for point in here
        ]
    return tuple(compared)


def _welch_p(one: Sequence[float], other: Sequence[float]) -> float:
    return float(ttest_ind(np.asarray(one), np.asarray(other), equal_var=False).pvalue)


def _bootstrap(point: DosePoint, plain: DosePoint) -> tuple[float, float] | None:
    if point is plain or point.cell.difference is None:
        return None
    found = [_read_predictions(run) for run in (*point.cell.runs, *plain.cell.runs)]
    read = [predictions for predictions in found if predictions is not None]
    if len(read) < len(found) or any(not np.array_equal(read[0][0], target) for target, _ in read):
        return None
    correct = [right for _, right in read]
    split = len(point.cell.runs)
    return bootstrap_interval(np.stack(correct[:split]), np.stack(correct[split:]))


def _read_predictions(run: Run) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Targets and whether the last weights were right, by image, as ``eval.py`` wrote them beside the run."""
    files = sorted((run.path / "evaluation").glob("*-val-predictions.npz"))
    if len(files) != 1:
        return None
    return _read_arrays(files[0])


def _read_arrays(file: Path) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            name = "ema_correct" if "ema_correct" in arrays else "raw_correct"
            return arrays["target"], arrays[name].astype(bool)
    except (OSError, ValueError, KeyError):
        return None


def _measured(run: Run, key: str) -> list[float] | None:
    """The last epoch's line that has the key; of ``initial_`` keys there is one."""
    for line in reversed(run.metrics):
        value = line.get(key)
        if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
            return [float(item) for item in value]
    return None
