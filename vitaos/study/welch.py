"""The difference of two means and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Final

from scipy.stats import t as student_t

__all__ = ["CONFIDENCE", "Difference", "welch"]

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of one cell minus mean of the plain one, with the half-width of Welch's confidence interval.

    ``half_width`` is None where no interval can be had: one of the two has a single run, or neither has any spread,
    which says more of the small number of runs and of held-out images than of certainty.
    """

    value: float
    half_width: float | None


def welch(one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """Mean of `one` minus mean of `other` and the half-width of its confidence interval by Welch's t.

    The variances may differ; the degrees of freedom are those of Welch and Satterthwaite.
    """
    value = mean(one) - mean(other)
    if len(one) < 2 or len(other) < 2:
        return Difference(value, None)
    parts = [stdev(sample) ** 2 / len(sample) for sample in (one, other)]
    variance = sum(parts)
    if variance == 0:
        return Difference(value, None)
    freedom = variance**2 / sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, (one, other), strict=True))
    return Difference(value, float(student_t.ppf(0.5 + confidence / 2, freedom)) * math.sqrt(variance))
