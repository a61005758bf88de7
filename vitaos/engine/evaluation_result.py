"""What an evaluation counted, and what follows from it.

Shapes: N images of a dataset, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitaos.engine.calibration import Confidences


@dataclass(frozen=True)
class Predictions:
    """What was predicted for every image of a dataset of N, by its index there.

    Attributes:
        target: (N,) int32, the dataset's own label; -1 for an image that was not evaluated.
        predicted: (N,) int32, the first answer; -1 for an image that was not evaluated or whose logits are not finite.
        correct: (N,) bool, whether the first answer counts as right.
    """

    target: NDArray[np.int32]
    predicted: NDArray[np.int32]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class EvaluationResult:
    """Counts over a dataset and what follows from them.

    Attributes:
        count, correct1, correct5: images; those whose label is the first answer, and among the first five (or all,
            where there are fewer classes).
        loss: mean cross-entropy.
        class_count, class_correct1, class_correct5: (K,) int64, the same by class.
        predictions: of every image, where they were asked for.
        confidences: of the images that count, where they were asked for.
    """

    count: int
    correct1: int
    correct5: int
    loss: float
    class_count: NDArray[np.int64]
    class_correct1: NDArray[np.int64]
    class_correct5: NDArray[np.int64]
    predictions: Predictions | None = None
    confidences: Confidences | None = None

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100.0 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Per cent."""
        return 100.0 * self.correct5 / self.count

    def metrics(self) -> dict[str, float]:
        """{"top1", "top5", "loss"}, as the trainer's `evaluate` is to return them."""
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}
