"""Who sees which image when: the order of an epoch as pure functions of (seed, epoch), for any number of processes.

An epoch is one global sequence of *positions* 0, 1, 2, ...; a *global step* is a block of ``G = batch_size x
accumulate x world`` consecutive positions. Rank r takes the positions p of the block with ``p % world == r`` (the
dealing of timm's samplers) and splits them in order into ``accumulate`` micro-batches. With G held fixed the images
of a global step are the same for every split into ranks and micro-batches, and any step of any epoch can be computed
on its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaos.counter_rng import generator
from vitaos.data.rng_streams import ORDER

REPEAT_ROUNDING = 256
"""Repeated augmentation shortens an epoch to a multiple of this many images (DeiT's sampler, kept by timm)."""


class MicroBatch(NamedTuple):
    """What one rank loads for one forward pass.

    Attributes:
        step: global step inside the epoch.
        positions: (B,) int64 places in the epoch's global order.
        indices: (B,) int64 images of the dataset at those places.
    """

    step: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class TrainOrder:
    """The training order as one rank sees it.

    Attributes:
        num_images: images in the dataset.
        batch_size: images per process and forward pass.
        accumulate: forward passes per optimizer step.
        rank, world: this process and how many there are.
        seed: the run's seed.
        repeats: 1 for a plain shuffle; R > 1 for repeated augmentation (Hoffer et al. 2020; DeiT uses 3): every image
            of the shuffle stands R times in a row, and the epoch keeps about ``num_images`` views of ``num_images /
            R`` images.

    Raises:
        ValueError: on impossible numbers, or when one global batch is larger than an epoch.
    """

    num_images: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "accumulate", "world", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be in 0..{self.world - 1} with {self.world} processes, got {self.rank}")
        if self.global_batch > self.images_per_epoch:
            raise ValueError(
                f"one optimizer step takes batch_size {self.batch_size} x accumulate {self.accumulate} x "
                f"{self.world} process(es) = {self.global_batch} images, but an epoch of this dataset has only "
                f"{self.images_per_epoch}: lower batch_size, accumulate or the number of processes"
            )

    @property
    def global_batch(self) -> int:
        """Images per optimizer step over all processes."""
        return self.batch_size * self.accumulate * self.world

    @property
    def images_per_epoch(self) -> int:
        """Length of the epoch's global order before the incomplete last step is dropped."""
        if self.repeats == 1 or self.num_images < REPEAT_ROUNDING:
            return self.num_images
        return self.num_images // REPEAT_ROUNDING * REPEAT_ROUNDING

    @property
    def steps_per_epoch(self) -> int:
        """Complete global steps in an epoch."""
        return self.images_per_epoch // self.global_batch

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """(steps_per_epoch x G,) dataset index at each position of the epoch."""
        count = self.steps_per_epoch * self.global_batch
        shuffled = generator(self.seed, ORDER, epoch).permutation(self.num_images)
        return np.repeat(shuffled[: -(-count // self.repeats)], self.repeats)[:count].astype(np.int64, copy=False)

    def positions(self, step: int) -> NDArray[np.int64]:
        """(accumulate, batch_size) positions of this rank in a global step, one row a micro-batch."""
        start = step * self.global_batch + self.rank
        own = start + self.world * np.arange(self.accumulate * self.batch_size, dtype=np.int64)
        return own.reshape(self.accumulate, self.batch_size)

    def micro_batches(self, epoch: int, start_step: int = 0) -> Iterator[MicroBatch]:
        """The micro-batches of this rank from a global step of an epoch on; nothing before that step is computed.

        Raises:
            ValueError: when the step does not lie in the epoch (the epoch's end, ``steps_per_epoch``, yields nothing).
        """
        if epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"epoch {epoch}, step {start_step} does not exist: epochs count from 0 and have "
                f"{self.steps_per_epoch} steps here"
            )
        indices = self.indices(epoch)
        for step in range(start_step, self.steps_per_epoch):
            for positions_B in self.positions(step):
                yield MicroBatch(step, positions_B, indices[positions_B])


def evaluation_indices(num_images: int, rank: int, world: int) -> NDArray[np.int64]:
    """This rank's share of an evaluation: every image belongs to exactly one rank, nothing is padded, a share may
    be empty.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in 0..{world - 1} with {world} processes, got {rank}")
    return np.arange(rank, num_images, world, dtype=np.int64)


def evenly_spaced_indices(num_images: int, count: int) -> NDArray[np.int64]:
    """`count` images (all of them where there are no more) at even distances: datasets are stored class by class."""
    count = min(count, num_images)
    return np.arange(count, dtype=np.int64) * num_images // max(count, 1)
