"""The loss of the labels."""

from typing import Final

import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from timm.loss import JsdCrossEntropy
from torch import Tensor, nn

KINDS: Final = ("cross_entropy", "bce", "jsd")


class CrossEntropy(nn.Module):
    """Mean cross-entropy with label smoothing, for class indices (B,) or for class probabilities (B, classes).

    On mixed targets the smoothing equals timm's, which smooths the two labels before mixing them: both are linear.
    Logits are taken to fp32 first, whatever the forward pass computed in.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = _checked(smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.smoothing)


class BinaryCrossEntropy(nn.Module):
    """timm's binary cross-entropy of every class, targets as :class:`CrossEntropy` takes them (DeiT III, RSB).

    Args:
        smoothing: of the labels, mixed ones too, as timm's mixup smooths them.
        threshold: targets above it become 1 and all others 0; None leaves them. DeiT III has 0 without smoothing: every
            class that is in a mixed image counts in full.
        sum_classes: sum the losses of the classes instead of their mean.

    Raises:
        ValueError: a threshold that smoothing alone would pass.
    """

    def __init__(self, smoothing: float = 0.0, *, threshold: float | None = None, sum_classes: bool = False) -> None:
        super().__init__()
        self.smoothing = _checked(smoothing)
        if threshold is not None and smoothing and threshold < smoothing:
            raise ValueError(
                f"a threshold of {threshold} with label smoothing {smoothing}: smoothed zeros could pass it; set "
                "smoothing to 0, or the threshold above it"
            )
        self._loss = TimmBinaryCrossEntropy(smoothing=0.0, target_threshold=threshold, sum_classes=sum_classes)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = logits.shape[1]
        dense = targets if targets.is_floating_point() else F.one_hot(targets, classes).float()
        loss: Tensor = self._loss(logits.float(), dense * (1 - self.smoothing) + self.smoothing / classes)
        return loss


class JensenShannon(nn.Module):
    """timm's cross-entropy of the first views + 12 x Jensen-Shannon divergence of all (AugMix, arXiv 1912.02781)."""

    def __init__(self, smoothing: float = 0.0, *, views: int = 3) -> None:
        super().__init__()
        self._loss = JsdCrossEntropy(num_splits=views, smoothing=_checked(smoothing))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self._loss(logits.float(), targets)
        return loss


def build_loss(
    kind: str = "cross_entropy",
    *,
    smoothing: float = 0.0,
    bce_threshold: float | None = None,
    bce_sum: bool = False,
    jsd_views: int = 3,
) -> nn.Module:
    """The loss of a recipe; arguments as the classes above take them.

    Raises:
        ValueError: unknown kind, or settings that do not go together.
    """
    if kind == "bce":
        return BinaryCrossEntropy(smoothing, threshold=bce_threshold, sum_classes=bce_sum)
    if kind == "jsd":
        return JensenShannon(smoothing, views=jsd_views)
    if kind != "cross_entropy":
        raise ValueError(f"loss={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    return CrossEntropy(smoothing)


def _checked(smoothing: float) -> float:
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label smoothing is {smoothing}; it must lie in [0, 1)")
    return smoothing
