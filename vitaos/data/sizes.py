"""Resolution by epoch: smaller images early in training, as pure functions of the epoch (progressive resizing).

Which images a batch holds, and which part of each is cut out, do not depend on the size: only what it is resized to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from vitaos.batch import Batch, Targets
from vitaos.data.batches import Announce
from vitaos.data.corrupt_images import CorruptImages

Sizes = Sequence[Sequence[int]]
"""(first epoch, side in pixels), epochs rising from 0."""


def size_at(sizes: Sizes, epoch: int) -> int:
    """Side in pixels of the training images of an epoch (0-based)."""
    return next(size for first, size in reversed(sizes) if first <= epoch)


class SizedTrainLoader:
    """A training loader whose images are as large as their epoch says; one loader at a time lies behind it.

    Args:
        make: makes the training loader for a size in pixels.
        sizes: (first epoch, side) pairs.
    """

    def __init__(self, make: Callable[[int], Any], sizes: Sizes) -> None:
        self._make, self._sizes = make, sizes
        self._size = size_at(sizes, 0)
        self._loader = make(self._size)
        self.announce: Announce | None = None
        self.steps_per_epoch: int = self._loader.steps_per_epoch
        self.images_per_epoch: int = self._loader.images_per_epoch
        self.fingerprint: dict[str, Any] = self._loader.fingerprint
        self.bad: CorruptImages = self._loader.bad

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from a global step on."""
        size = size_at(self._sizes, epoch)
        if size != self._size:
            self._loader.close()
            self._loader, self._size = self._make(size), size
            self.bad = self._loader.bad
        self._loader.announce = self.announce
        batches: Iterator[Batch] = self._loader.epoch(epoch, start_step)
        return batches

    def close(self) -> None:
        """End its workers."""
        self._loader.close()


class TransformBySize:
    """The training transform for the size that a batch's images have."""

    def __init__(self, transforms: Mapping[int, Callable[..., tuple[Tensor, Targets]]]) -> None:
        self._transforms = transforms

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Targets]:
        return self._transforms[batch.images.shape[-1]](batch, epoch=epoch, step=step)
