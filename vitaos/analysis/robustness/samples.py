"""The images of a robustness test, and what a model answers to them.

Shapes: B images, S pixels of a side, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Samples:
    """A few images in memory.

    Attributes:
        images: (B, 3, S, S) uint8.
        targets: (B,) int64.
        positions: (B,) int64, their indices in the dataset.
    """

    images: Tensor
    targets: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Answers:
    """What a model says to images.

    Attributes:
        first: (B,) int64, the class with the largest logit; -1 where a logit is not finite.
        loss: (B,) float64, cross-entropy.
        correct: (B,) bool.
    """

    first: Tensor
    loss: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100.0 * float(self.correct.double().mean())

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy."""
        return float(self.loss.mean())

    def agreement(self, other: "Answers") -> float:
        """Share of images, per cent, with the same first answer; answers that are not finite agree with none."""
        return 100.0 * float(((self.first == other.first) & (self.first >= 0)).double().mean())


@dataclass(frozen=True)
class Respondent:
    """A model that is asked.

    Attributes:
        model: in eval mode.
        normalize: uint8 images on the device to what the model takes.
        autocast: context of a forward pass.
        device: where the model is.
        batch_size: images asked at once.
        transform: what happens to normalized images on the way in, or None.
        class_indices: which of the model's answers belong to the dataset's classes, or None for all.
    """

    model: nn.Module
    normalize: Callable[[Tensor], Tensor]
    autocast: Callable[[], AbstractContextManager[object]]
    device: torch.device
    batch_size: int
    transform: Callable[[Tensor], Tensor] | None = None
    class_indices: Tensor | None = None

    @torch.no_grad()
    def ask(self, images: Tensor, targets: Tensor) -> Answers:
        """Answers to uint8 images (B, 3, S, S), B may be any number."""
        firsts, losses = [], []
        for part, truth in zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True):
            logits_BK = self._logits(part)
            finite_B = torch.isfinite(logits_BK).all(1)
            firsts.append(torch.where(finite_B, logits_BK.argmax(1), -1).cpu())
            losses.append(F.cross_entropy(logits_BK, truth.to(self.device), reduction="none").double().cpu())
        first = torch.cat(firsts)
        return Answers(first, torch.cat(losses), first == targets)

    def batches(self, images: Tensor) -> Iterator[Tensor]:
        """What the model is given, batch by batch."""
        for part in images.split(self.batch_size):
            x = self.normalize(part.to(self.device))
            yield x if self.transform is None else self.transform(x)

    def _logits(self, images: Tensor) -> Tensor:
        (x,) = self.batches(images)
        with self.autocast():
            logits_BC = self.model(x)
        return (logits_BC if self.class_indices is None else logits_BC[:, self.class_indices]).float()
