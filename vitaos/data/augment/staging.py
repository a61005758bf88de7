"""Carries the drawn numbers of a batch to the device in one copy, so that the host never waits and rarely talks."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT: Final = 16


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
        return self._send_packed(device)

    def _send_packed(self, device: torch.device) -> list[Tensor]:
        starts, total = [], 0
        for array in self._arrays:
            starts.append(total)
            total += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        buffer = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
        room = buffer.numpy()
        for start, array in zip(starts, self._arrays, strict=True):
            room[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        # The caching allocator keeps a pinned block from reuse until the copy that reads it has run.
        device_tensors = buffer.to(device, non_blocking=True)
        return [
            device_tensors[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
            for start, array in zip(starts, self._arrays, strict=True)
        ]
