# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def"
"""A Triton kernel that sums a gradient over each image's tokens and re-weighs its bands, in one pass over memory.

B images, N tokens, C channels. A program has some channels of one image. Up to 1,024 tokens it holds all of them, so
that the gradient is read once; of more it reads them again, from the cache if the image's channels are still there.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_FEW_TOKENS: Final = 256  # with which a program has 64 channels; 32 with more
_MOST_TOKENS: Final = 1024  # that it holds, 64 values each of 512 threads
_OPTIONS: Final[dict[str, Any]] = {"enable_fp_fusion": True}  # said, since Triton warns where it is not


@triton.jit
def _band(
    gradient, gain, low, banded, total,
    N, C, of_image, of_token, of_channel, groups, per_token,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """total = sum(gradient) over tokens, banded = gain * gradient + low * total / N."""
    program = tl.program_id(0)
    image = (program // groups).to(tl.int64)
    columns = (program % groups) * COLUMNS + tl.arange(0, COLUMNS)
    within = columns < C
    place = columns[None, :].to(tl.int64) * of_channel + image * of_image
    goal = columns[None, :] + image * N * C
    tokens = tl.arange(0, TOKENS)[:, None]
    g = tl.load(gain + columns, mask=within, other=0.0).to(tl.float32)[None, :]
    m = tl.load(low + columns, mask=within, other=0.0).to(tl.float32) * per_token
    if HELD:
        mask = (tokens < N) & within[None, :]
        x = tl.load(gradient + place + tokens * of_token, mask=mask, other=0.0).to(tl.float32)
        summed = tl.sum(x, axis=0)
        tl.store(banded + goal + tokens * C, (g * x + (m * summed)[None, :]).to(banded.dtype.element_ty), mask=mask)
    else:
        added = tl.full((TOKENS, COLUMNS), 0.0, tl.float32)
        for start in range(0, N, TOKENS):
            here = start + tokens
            mask = (here < N) & within[None, :]
            added += tl.load(gradient + place + here * of_token, mask=mask, other=0.0).to(tl.float32)
        summed = tl.sum(added, axis=0)
        for start in range(0, N, TOKENS):
            here = start + tokens
            mask = (here < N) & within[None, :]
            x = tl.load(gradient + place + here * of_token, mask=mask, other=0.0).to(tl.float32)
            tl.store(banded + goal + here * C, (g * x + (m * summed)[None, :]).to(banded.dtype.element_ty), mask=mask)
    tl.store(total + image * C + columns, summed, mask=within)


def band(gradient_BNC: Tensor, gain: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Re-weigh the bands of a gradient.

    Args:
        gradient_BNC: of a type of at most 32 bits; any strides.
        gain: (C,) weights of the tokens.
        low: (C,) weights of their mean.

    Returns:
        (B, N, C) of the gradient's type, and the sums over tokens, (B, 1, C) in float32.
    """
    B, N, C = gradient_BNC.shape
    banded = gradient_BNC.new_empty(B, N, C)
    total = gradient_BNC.new_empty(B, 1, C, dtype=torch.float32)
    held = N <= _MOST_TOKENS
    tokens = triton.next_power_of_2(N) if held else _FEW_TOKENS
    columns = min(64 if tokens <= _FEW_TOKENS else 32, triton.next_power_of_2(C))
    groups = triton.cdiv(C, columns)
    _band[(B * groups,)](
        gradient_BNC, gain.contiguous(), low.contiguous(), banded, total,
        N, C, *gradient_BNC.stride(), groups, 1 / N,
        TOKENS=tokens, COLUMNS=columns, HELD=held, num_warps=8 if tokens <= _FEW_TOKENS else 16, **_OPTIONS,
    )  # fmt: skip
    return banded, total
