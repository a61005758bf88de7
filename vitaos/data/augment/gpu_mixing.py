# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def"
"""A Triton kernel that blends a batch with its mirror on a GPU: one read and one write of the images.

By torch's operations it is six launches and three and a half times the bytes. The arithmetic is torch's there: the own
image times lambda, rounded, then a fused multiply-add of the partner.
"""

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from vitaos.data.augment import gpu_kernels

_VALUES: Final = 1024


def blend_pairs(images: Tensor, lam: float) -> None:
    """Blend image i with image B - 1 - i, both ways, in place; the middle one of an odd batch stays.

    Args:
        images: floating (B, C, H, W), each image's memory dense, whatever its order.
        lam: weight of the own image.
    """
    batch, values = images.shape[0], images[0].numel()
    grid = (batch // 2, triton.cdiv(values, _VALUES))
    gpu_kernels.launch(_blend_pairs, grid, images, images, lam, 1.0 - lam, batch, values, BLOCK=_VALUES)


@triton.jit
def _blend_pairs(images, out, own, other, batch, values, BLOCK: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = place < values
    here, there = pair * values + place, (batch - 1 - pair) * values + place
    first = tl.load(images + here, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(images + there, mask=mask, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    kept, kept_second = (first * own).to(kind).to(tl.float32), (second * own).to(kind).to(tl.float32)
    tl.store(out + here, tl.fma(second, tl.zeros_like(second) + other, kept).to(kind), mask=mask)
    tl.store(out + there, tl.fma(first, tl.zeros_like(first) + other, kept_second).to(kind), mask=mask)
