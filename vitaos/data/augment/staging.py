"""Carries the drawn numbers of a batch to the device in one copy, so that the host never waits and rarely talks."""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT: Final = 16
_TYPES: Final = {
    torch.zeros((), dtype=kind).numpy().dtype: kind
    for kind in (torch.uint8, torch.bool, torch.int32, torch.int64, torch.float32, torch.float64)
}


class _Slot(NamedTuple):
    start: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Parcel:
    """Arrays side by side in one host buffer, page-locked where a GPU is to read it.

    Attributes:
        buffer: uint8.
    """

    def __init__(self, buffer: Tensor, slots: tuple[_Slot, ...]) -> None:
        self.buffer = buffer
        self._slots = slots

    def on(self, device: torch.device) -> list[Tensor]:
        """All arrays as tensors on ``device``, views of one buffer, in the order of their handles."""
        # The caching allocator keeps a pinned block from reuse until the copy that reads it has run.
        there = self.buffer.to(device, non_blocking=True)
        return [there[slot.start : slot.start + slot.nbytes].view(slot.dtype).view(slot.shape) for slot in self._slots]


class StagingBuffer:
    """Arrays collected on the host, sent together.

    ``add`` returns a handle; ``send(device)[handle]`` is the array as a tensor there. For a CUDA device the arrays
    travel in one non-blocking copy out of pinned memory and come back as views of one buffer.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def add(self, array: NDArray[Any]) -> int:
        """Put an array in; returns its handle."""
        self._arrays.append(np.ascontiguousarray(array))
        return len(self._arrays) - 1

    def send(self, device: torch.device) -> list[Tensor]:
        """All arrays as tensors on ``device``, in the order of their handles."""
        if device.type == "cpu":
            return [torch.from_numpy(array) for array in self._arrays]
        return self.pack(pin_memory=device.type == "cuda").on(device)

    def pack(self, *, pin_memory: bool) -> Parcel:
        """All arrays in one buffer."""
        slots, total = [], 0
        for array in self._arrays:
            slots.append(_Slot(total, array.nbytes, _TYPES[array.dtype], array.shape))
            total += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        buffer = torch.empty(total, dtype=torch.uint8, pin_memory=pin_memory)
        room = buffer.numpy()
        for slot, array in zip(slots, self._arrays, strict=True):
            room[slot.start : slot.start + slot.nbytes] = array.reshape(-1).view(np.uint8)
        return Parcel(buffer, tuple(slots))
