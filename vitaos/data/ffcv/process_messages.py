"""What a training process and the process that makes its batches say to each other, and the memory they share."""

import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from vitaos.data.batches import BatchRequest
from vitaos.data.corrupt_images import OnBad
from vitaos.data.crops import CropSettings
from vitaos.data.ffcv.batch_pool import BatchMemory
from vitaos.data.resize import Resize

_ALIGNMENT: Final = 4096


class PoolOptions(NamedTuple):
    """A :class:`~vitaos.data.ffcv.batch_pool.BatchPool` over the beton at ``path``."""

    path: Path
    in_memory: bool
    img_size: int
    resize: Resize
    workers: int
    prefetch: int
    on_bad: OnBad
    crop: CropSettings
    seed: int


class Start(NamedTuple):
    """The first message: what to make, and the shape of the shared memory."""

    options: PoolOptions
    batch_size: int
    slots: int


class Order(NamedTuple):
    """A batch to make, and the slot of the shared memory to make it in."""

    slot: int
    request: BatchRequest


class Made(NamedTuple):
    """The batch lies in its slot, or this went wrong; and the images found bad so far."""

    error: Exception | None
    bad: list[int]


class Logged(NamedTuple):
    """A record for the log."""

    name: str
    level: int
    message: str


class SharedBatches:
    """Slots of memory that two processes map: in each the targets of a batch and then its images.

    Args:
        descriptor: of a memory file; sized here by whoever comes first.
        slots: batches.
        batch_size: most images of a batch.
        img_size: side of the images.
    """

    def __init__(self, descriptor: int, slots: int, batch_size: int, img_size: int) -> None:
        self._img_size = img_size
        self._first_pixel = batch_size * 8
        whole = self._first_pixel + batch_size * img_size * img_size * 3
        stride = -(-whole // _ALIGNMENT) * _ALIGNMENT
        if os.fstat(descriptor).st_size == 0:
            os.ftruncate(descriptor, slots * stride)
        self._slots = np.frombuffer(mmap.mmap(descriptor, slots * stride), dtype=np.uint8).reshape(slots, stride)

    def slot(self, number: int, count: int) -> BatchMemory:
        """Room for ``count`` images in a slot."""
        row, start, size = self._slots[number], self._first_pixel, self._img_size
        views_BSS3 = row[start : start + count * size * size * 3].reshape(count, size, size, 3)
        images_B3SS = torch.from_numpy(views_BSS3).permute(0, 3, 1, 2)
        return BatchMemory(images_B3SS, views_BSS3, row[: count * 8].view(np.int64))
