"""How sure a difference of accuracies is: resampled over images and seeds, seed by seed, corrected for comparisons."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

__all__ = ["bootstrap_interval", "half_width", "holm", "paired_interval"]

_RESAMPLES: Final = 2000
_BLOCK: Final = 200  # resamples at a time: bounds memory to outcomes x 200 floats


def bootstrap_interval(
    one: NDArray[np.bool_], other: NDArray[np.bool_], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the difference of two mean accuracies, in points.

    Both saw the same images, so each resample draws images once for both and seeds of each apart: what the choice of
    test images and of seeds leaves open (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile
    interval). With one seed on either side it speaks of these two networks alone. Few seeds make it too narrow:
    :func:`scipy.stats.ttest_ind` over the seeds is the stricter one then.

    Args:
        one: which images each run answered right, (seeds, images).
        other: the same of what it is compared with, (seeds of its own, the same images).
        confidence: of the interval.
        seed: of the resampling.

    Raises:
        ValueError: the two do not hold the same number of images.
    """
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"{one.shape[1]} against {other.shape[1]} images: the same ones are needed to pair them")
    rng = np.random.default_rng(seed)
    images = one.shape[1]
    # Images that all runs answered alike are one outcome: drawing how often it comes up is the same as drawing images.
    outcomes, multiplicities = np.unique(np.concatenate([one, other]), axis=1, return_counts=True)
    sides = np.split(outcomes.astype(np.float32), [len(one)])
    differences = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, _BLOCK):
        counts = rng.multinomial(images, multiplicities / images, size=_BLOCK).T.astype(np.float32)
        means = [_resampled_mean(correct @ counts / images, rng) for correct in sides]
        differences[start : start + _BLOCK] = 100 * (means[0] - means[1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_mean(accuracies: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mean over as many seeds as there are, drawn with replacement; (seeds, resamples) -> (resamples,)."""
    seeds, resamples = accuracies.shape
    drawn = rng.integers(seeds, size=(seeds, resamples))
    return np.take_along_axis(accuracies, drawn, axis=0).mean(axis=0)


def half_width(values: Sequence[float], confidence: float) -> float | None:
    """Half of the confidence interval of a mean by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    return float(student_t.ppf(0.5 + confidence / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def paired_interval(
    one: Mapping[Any, float], other: Mapping[Any, float], *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Confidence interval of the mean difference seed by seed, by Student's t over the seeds that both have.

    Runs of one seed share the initial weights, the order of the images and all draws. Where two networks follow the
    same course for it, this is far narrower than Welch's interval; where they do not, it is the wider one.

    Args:
        one: value by seed.
        other: the same of what it is compared with.
        confidence: of the interval.

    Returns:
        None with fewer than two seeds in common, or where all of them differ alike: three runs show no certainty.
    """
    differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
    half = half_width(differences, confidence)
    if not half:
        return None
    return mean(differences) - half, mean(differences) + half


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, float)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return [float(value) for value in corrected]
