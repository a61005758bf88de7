"""Page-locked copies of tensors, packed into a few blocks.

torch rounds every page-locked allocation up to a power of two: a buffer a tensor would lock a third more memory than a
training state has. Here whole blocks are powers of two, and the tensors lie in them side by side.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

_LARGEST_BLOCK: Final = 64 << 20
_SMALLEST_BLOCK: Final = 1 << 16
_ALIGNMENT: Final = 64  # bytes: a cache line, and a multiple of every element size


def pinned_like(tensors: Mapping[str, Tensor], *, pin: bool = True) -> dict[str, Tensor]:
    """Uninitialized tensors on the CPU, of the same shapes, strides and dtypes, each a storage of its own.

    Args:
        tensors: by name; empty ones get ordinary memory.
        pin: page-lock the memory (needs CUDA).
    """
    layouts = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    sizes = {name: _aligned(layout.untyped_storage().nbytes()) for name, layout in layouts.items()}
    filled = [name for name in sorted(sizes, key=sizes.__getitem__, reverse=True) if sizes[name]]
    buffers = {name: torch.empty_like(layouts[name], device="cpu") for name in sizes if not sizes[name]}
    while filled:
        size = _block_size([sizes[name] for name in filled])
        block = torch.empty(size, dtype=torch.uint8, pin_memory=pin).numpy()
        used, left = 0, []
        for name in filled:  # the largest first; small ones fill the gaps
            if used + sizes[name] > size:
                left.append(name)
                continue
            layout = layouts[name]
            count = layout.untyped_storage().nbytes() // layout.element_size()
            whole = torch.frombuffer(block, dtype=layout.dtype, count=count, offset=used)
            buffers[name] = whole.as_strided(layout.shape, layout.stride())
            used += sizes[name]
        filled = left
    return buffers


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _block_size(sizes: list[int]) -> int:
    """Of the next block for these tensors, the largest first: a power of two that they fill if one of them fits in."""
    most = 1 << (sum(sizes).bit_length() - 1)
    return max(min(most, _LARGEST_BLOCK), _SMALLEST_BLOCK, 1 << (sizes[0] - 1).bit_length())
