"""Batches of a beton: a pool of threads, fresh memory for every batch, and errors that arrive.

Every batch is split into pieces that the threads of a pool make; a bounded number of batches is in flight at a time. A
thread's exception is raised where the batch is consumed. Nothing here draws random numbers: what a batch holds
follows from its request, so the number of threads and the history of the loader make no difference.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import Batch
from vitaos.data.batches import BatchRequest
from vitaos.data.corrupt_images import CorruptImageError, CorruptImages, OnBad
from vitaos.data.crops import CropSettings, training_crops
from vitaos.data.ffcv.reader import Beton
from vitaos.data.resize import RESIZERS, Resize, crop_and_resize, empty_batch, resize_and_center_crop

PIECES_PER_WORKER = 4
"""Pieces of a batch for each thread: enough that a slow image does not leave the others idle."""


_NOTHING: Final = np.empty((0, 0, 3), dtype=np.uint8)


class BatchMemory(NamedTuple):
    """Where a batch is made.

    Attributes:
        images: (B, 3, S, S) uint8.
        views: the same memory as (B, S, S, 3), for the threads.
        targets: (B,) int64.
    """

    images: Tensor
    views: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def batch(self, request: BatchRequest) -> Batch:
        """What lies here, once it is made."""
        return Batch(self.images, torch.from_numpy(self.targets), torch.from_numpy(request.positions))


def fresh_memory(count: int, img_size: int, *, pin_memory: bool) -> BatchMemory:
    """Memory for a batch that is given out, and never used again here."""
    images_B3SS, views_BSS3 = empty_batch(count, img_size, pin_memory=pin_memory)
    targets_B = torch.empty(count, dtype=torch.int64, pin_memory=pin_memory).numpy()
    return BatchMemory(images_B3SS, views_BSS3, targets_B)


class BatchInFlight(NamedTuple):
    """A batch that is being made."""

    request: BatchRequest
    memory: BatchMemory
    pieces: list[Future[None]]

    def wait(self) -> Batch:
        """Wait for it; an exception of a thread is raised here, after the threads have let go of the batch."""
        wait(self.pieces)
        for piece in self.pieces:
            piece.result()
        return self.memory.batch(self.request)


class BatchPool:
    """Makes batches of a beton in threads, a bounded number ahead of their use.

    Args:
        beton: the images.
        img_size: side of the square output.
        resize: ``bicubic`` or ``area``.
        workers: threads; one for 0.
        prefetch: batches made ahead of the one in use.
        pin_memory: hand out page-locked memory.
        on_bad: what to do with a record that will not decode.
        crop: the random resized crop of training; None for evaluation.
        seed: of the draws of the crop.
        eval_resize: shorter side before the center crop; evaluation only.
    """

    def __init__(
        self, beton: Beton, *, img_size: int, resize: Resize, workers: int, prefetch: int, pin_memory: bool,
        on_bad: OnBad, crop: CropSettings | None = None, seed: int = 0, eval_resize: int = 0,
    ) -> None:  # fmt: skip
        self._beton = beton
        self._img_size = img_size
        self._resize = beton.area if resize == "area" else RESIZERS[resize]
        self._workers = max(1, workers)
        self._prefetch = prefetch
        self._pin_memory = pin_memory
        self._crop = crop
        self._seed = seed
        self._eval_resize = eval_resize
        self.bad = CorruptImages(len(beton), on_bad, str(beton.path), evaluation=crop is None)
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(self._workers, thread_name_prefix="vitaos-loader")

    def batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """The requested batches, in order.

        Raises:
            CorruptImageError: under ``on_bad=fail`` for a record that does not decode; when too many do not.
            RuntimeError: when a thread failed for another reason; names the record.
        """
        in_flight: deque[BatchInFlight] = deque()
        self._check_open()
        try:
            for request in requests:
                memory = fresh_memory(len(request.indices), self._img_size, pin_memory=self._pin_memory)
                in_flight.append(self.start(request, memory))
                if len(in_flight) > self._prefetch:
                    yield in_flight.popleft().wait()
            while in_flight:
                yield in_flight.popleft().wait()
        finally:
            left = [piece for batch in in_flight for piece in batch.pieces]
            for piece in left:
                piece.cancel()
            wait(left)

    def close(self) -> None:
        """End the threads; pieces not yet begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _check_open(self) -> ThreadPoolExecutor:
        if self._pool is None:
            raise ValueError("this loader is closed")
        return self._pool

    def start(self, request: BatchRequest, memory: BatchMemory) -> BatchInFlight:
        """Let the threads make a batch in the memory given."""
        pool, count = self._check_open(), len(request.indices)
        boxes_B4 = self._boxes(request, request.indices, slice(None))
        # Repeats of an image follow each other; a piece ends where the image changes, so each is decoded once.
        groups = np.flatnonzero(np.diff(request.indices, prepend=-1))
        step = max(1, len(groups) // (self._workers * PIECES_PER_WORKER))
        bounds = [*groups[::step].tolist(), count]
        pieces = [
            pool.submit(self._make, request, memory, boxes_B4, range(start, end)) for start, end in pairwise(bounds)
        ]
        return BatchInFlight(request, memory, pieces)

    def _boxes(self, request: BatchRequest, indices: NDArray[np.int64], places: slice) -> NDArray[np.int64] | None:
        """Crop boxes of the batch's places when they show the images ``indices``."""
        if request.epoch is None or self._crop is None:
            return None
        heights, widths = self._beton.heights[indices], self._beton.widths[indices]
        return training_crops(
            self._crop, request.positions[places], heights, widths, seed=self._seed, epoch=request.epoch
        )

    def _make(
        self, request: BatchRequest, memory: BatchMemory, boxes_B4: NDArray[np.int64] | None, places: range
    ) -> None:
        """Fill some places of a batch; runs in a thread."""
        last, found, image_HW3 = -1, -1, _NOTHING
        for place in places:
            index = int(request.indices[place])
            try:
                if index != last:
                    found, image_HW3 = self.bad.decode(index, self._beton.image)
                    last = index
                memory.targets[place] = self._beton.targets[found]
                out_SS3 = memory.views[place]
                if boxes_B4 is None:
                    resize_and_center_crop(image_HW3, self._eval_resize, out_SS3, self._resize)
                    continue
                box = boxes_B4[place]
                if found != index:
                    replaced = self._boxes(request, np.array([found]), slice(place, place + 1))
                    assert replaced is not None
                    box = replaced[0]
                crop_and_resize(image_HW3, box, out_SS3, self._resize)
            except CorruptImageError:
                raise
            except Exception as error:
                raise RuntimeError(f"loading record {index} of {self._beton.path} failed: {error}") from error
