"""Loaders over betons, for training and evaluation; the batches are made in :mod:`batch_pool`, by threads of this
process, or in :mod:`process_pool`, by threads of another.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vitaos.batch import Batch
from vitaos.data.batches import Announce, evaluation_requests, training_requests
from vitaos.data.corrupt_images import OnBad
from vitaos.data.crops import CropSettings
from vitaos.data.ffcv.batch_pool import BatchPool
from vitaos.data.ffcv.process_messages import PoolOptions
from vitaos.data.ffcv.process_pool import ProcessPool
from vitaos.data.ffcv.reader import Beton
from vitaos.data.order import TrainOrder, evaluation_indices, evenly_spaced_indices
from vitaos.data.resize import Resize


class FfcvTrainLoader:
    """Training batches from a beton; see :class:`vitaos.data.TrainLoader` for what it promises.

    Args:
        beton: the images.
        order: who sees which image when.
        crop: the random resized crop.
        img_size, resize, workers, prefetch, pin_memory, on_bad: as :class:`BatchPool`.
        own_process: the threads work in a process of their own (:mod:`process_pool`), beside this interpreter.
        in_memory: that process reads the beton into memory.

    Attributes:
        path, own_process: the file, and whether another process decodes it.
    """

    def __init__(
        self, beton: Beton, order: TrainOrder, crop: CropSettings, *, img_size: int, resize: Resize = "bicubic",
        workers: int = 1, prefetch: int = 2, pin_memory: bool = False, on_bad: OnBad = "skip",
        own_process: bool = False, in_memory: bool = False,
    ) -> None:  # fmt: skip
        self.path, self.own_process = beton.path, own_process
        self._mapped = None if in_memory else beton
        self._order = order
        self.announce: Announce | None = None
        self._pool: BatchPool | ProcessPool
        if own_process:
            options = PoolOptions(beton.path, in_memory, img_size, resize, workers, prefetch, on_bad, crop, order.seed)
            self._pool = ProcessPool(options, len(beton), batch_size=order.batch_size, pin_memory=pin_memory)
        else:
            self._pool = BatchPool(
                beton, img_size=img_size, resize=resize, workers=workers, prefetch=prefetch, pin_memory=pin_memory,
                on_bad=on_bad, crop=crop, seed=order.seed,
            )  # fmt: skip
        self.bad = self._pool.bad
        self.steps_per_epoch = order.steps_per_epoch
        self.images_per_epoch = order.images_per_epoch
        self.fingerprint = beton.fingerprint()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from a global step on, ``accumulate`` of them for each step."""
        if self._mapped is not None:
            self._mapped.look()
        return self._pool.batches(training_requests(self._order, epoch, start_step, self.announce))

    def close(self) -> None:
        """End the threads."""
        self._pool.close()


class FfcvEvalLoader:
    """This rank's share of an evaluation, every image once, uint8 center crops; positions are dataset indices."""

    def __init__(
        self, beton: Beton, *, rank: int, world: int, batch_size: int, img_size: int, eval_resize: int,
        resize: Resize = "bicubic", workers: int = 1, prefetch: int = 2, pin_memory: bool = False,
        on_bad: OnBad = "fail",
    ) -> None:  # fmt: skip
        self._beton = beton
        self.class_names = beton.class_names
        self.fingerprint = beton.fingerprint()
        self.num_images = len(beton)
        self._indices = evaluation_indices(len(beton), rank, world)
        self._batch_size = batch_size
        self._pool = BatchPool(
            beton, img_size=img_size, resize=resize, workers=workers, prefetch=prefetch, pin_memory=pin_memory,
            on_bad=on_bad, eval_resize=eval_resize,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Batch]:
        self._beton.look()
        return self._batches(self._indices)

    def evenly_spaced(self, images: int) -> Iterator[Batch]:
        """That many images at even distances over the whole dataset, whatever this rank's share."""
        return self._batches(evenly_spaced_indices(self.num_images, images))

    def _batches(self, indices: NDArray[np.int64]) -> Iterator[Batch]:
        return self._pool.batches(evaluation_requests(indices, self._batch_size))

    def file_names(self) -> None:
        """A beton does not keep the names of the files it was written from."""

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
