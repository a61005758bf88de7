"""Whether a model's confidence is right: expected calibration error, NLL, Brier score and the reliability diagram.

Shapes: N images of a dataset, B of a batch, K classes.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitaos.runtime.world import World

BINS: Final = 15
"""Equal bins of confidence, as in Guo et al., "On calibration of modern neural networks", ICML 2017."""

_BELOW_ONE: Final = float(np.nextafter(np.float32(1), np.float32(0)))
"""A confidence of 1 belongs to the last bin; torchmetrics gives it a bin of its own."""


@dataclass(frozen=True)
class Confidences:
    """Of the images that were judged and whose logits are finite, in the dataset's order.

    Attributes:
        confidence: (n,) float32, the softmax probability of the first answer.
        correct: (n,) bool, whether that counts as right.
        nll: (n,) float64, negative log-likelihood of the label, in nats.
        brier: (n,) float64, squared distance between the probabilities and the one-hot label, in [0, 2].
    """

    confidence: NDArray[np.float32]
    correct: NDArray[np.bool_]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]


class ConfidenceTable:
    """A row a fact and a column an image, filled by each rank for its own images; the sum over ranks is the whole."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.table = torch.zeros(5, images, dtype=torch.float64, device=device)

    def add(self, positions_B: Tensor, logits_BK: Tensor, targets_B: Tensor, right_B: Tensor, judged_B: Tensor) -> None:
        """Note a batch: float32 logits on the device, and the places of its images in the dataset."""
        probabilities_BK = logits_BK.softmax(1).double()
        one_hot_BK = F.one_hot(targets_B, logits_BK.shape[1])
        rows = torch.stack(
            [
                judged_B & torch.isfinite(logits_BK).all(1),
                probabilities_BK.amax(1),
                right_B,
                F.cross_entropy(logits_BK.double(), targets_B, reduction="none"),
                (probabilities_BK - one_hot_BK).square().sum(1),
            ]
        )
        self.table[:, positions_B] = rows.to(self.table.dtype)

    def result(self, world: World) -> Confidences:
        """All ranks' facts together; a collective call."""
        table = world.all_reduce(self.table).cpu().numpy()
        counted, confidence, correct, nll, brier = table[:, table[0] > 0]
        assert counted.all()
        return Confidences(confidence.astype(np.float32), correct > 0, nll, brier)


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart.

    Attributes:
        images: that count.
        ece, mce: expected and maximal calibration error over the bins, in [0, 1].
        nll, brier: means over images.
        bin_count, bin_confidence, bin_accuracy: by bin of equal width, means; NaN where a bin is empty.
    """

    images: int
    ece: float
    mce: float
    nll: float
    brier: float
    bin_count: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    bin_accuracy: NDArray[np.float64]

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        bins = [
            {"low": index / BINS, "high": (index + 1) / BINS, "count": int(count)}
            | ({"confidence": float(confidence), "accuracy": float(accuracy)} if count else {})
            for index, (count, confidence, accuracy) in enumerate(
                zip(self.bin_count, self.bin_confidence, self.bin_accuracy, strict=True)
            )
        ]
        return {
            "images": self.images,
            "ece": self.ece,
            "mce": self.mce,
            "nll": self.nll,
            "brier": self.brier,
            "bins": bins,
        }


def calibrate(found: Confidences) -> Calibration:
    """The measures of a dataset; torchmetrics computes the errors over the bins.

    Raises:
        ValueError: no image had finite logits.
    """
    from torchmetrics.functional.classification import binary_calibration_error  # noqa: PLC0415  # optional

    if not len(found.confidence):
        raise ValueError("calibration=true: no image has an answer that is a finite number")
    confidence = found.confidence.clip(0.0, _BELOW_ONE)

    def error(norm: str) -> float:
        # Of several classes only the first answer's probability counts: right or wrong, two classes.
        given, right = torch.from_numpy(confidence), torch.from_numpy(found.correct.astype(np.int64))
        return float(binary_calibration_error(given, right, n_bins=BINS, norm=norm))  # type: ignore[arg-type]

    edges = np.linspace(0.0, 1.0, BINS + 1, dtype=np.float32)
    places = np.digitize(confidence, edges[1:-1])
    count = np.bincount(places, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, weights=values, minlength=BINS) / count for values in (confidence, found.correct)]
    return Calibration(
        len(confidence), error("l1"), error("max"), float(found.nll.mean()), float(found.brier.mean()), count, *means
    )
