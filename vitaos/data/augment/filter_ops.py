"""Sharpness and Gaussian blur as Pillow computes them: uint8 (n, 3, H, W) in, uint8 out."""

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_PASSES: Final = 3
_ONE: Final = 2.0**24  # 1 in Pillow's fixed point


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with a smoothed image (3 x 3, center 5, others 1, over 13); the border of one pixel stays as it is.

    Args:
        images: uint8 (n, 3, H, W).
        factors: (n,) float32, 0 smooth, 1 unchanged, above 1 sharper.
    """
    if min(images.shape[-2:]) < 3:
        return images
    values = images.float()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    center = values[..., 1:-1, 1:-1]
    # Whole numbers until here; (sum + 6.5) / 13 never comes near a whole number, so the rounding is Pillow's.
    smooth = total.add_(center, alpha=4).add_(6.5).mul_(1 / 13).floor_()
    blended = (center - smooth).mul_(factors.view(-1, 1, 1, 1)).add_(smooth)
    out = images.clone()
    out[..., 1:-1, 1:-1] = blended.clamp_(0, 255)
    return out


def blur_weights(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Box filters whose three passes make Pillow's Gaussian.

    Extended box filter (Gwosdek et al. 2011), in the single precision and 24-bit fixed point of Pillow, whose roundings
    show where a filtered value is a tie. Good to a radius of 2.44, beyond which the box would be wider.

    Args:
        radius: (n,) standard deviations in pixels.

    Returns:
        (n, 3) whole multiples of 2**-24: the weights at distance 0, 1 and 2.
    """
    single = np.float32
    variance = radius.astype(single) ** 2 / single(_PASSES)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(single)
    whole = np.floor((length.astype(np.float64) - 1.0) / 2.0).astype(single)
    assert (whole <= 1).all(), "a Gaussian this wide needs more taps"
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) * (whole + 1)))
    inner = np.floor(single(_ONE) / ((whole + part) * single(2) + single(1))).astype(np.float64)
    outer = np.floor((_ONE - (2 * whole + 1) * inner) / 2)
    return np.stack([inner, np.where(whole == 1, inner, outer), np.where(whole == 1, outer, 0.0)], axis=1) / _ONE


def gaussian_blur(images: Tensor, weights: Tensor) -> Tensor:
    """Three passes of a box filter along each axis, rounded to gray levels after each, edges repeated.

    Args:
        images: uint8 (n, 3, H, W).
        weights: (n, 3) float64, in which every product and sum is exact; see :func:`blur_weights`.
    """
    values = images.double()
    center, near, far = (weight.view(-1, 1, 1, 1) for weight in weights.unbind(1))
    for axis, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        size = values.shape[axis]
        for _ in range(_PASSES):
            padded = F.pad(values, border, mode="replicate")
            two, one, here, next_, after = (padded.narrow(axis, start, size) for start in range(5))
            values = (here * center).add_((one + next_).mul_(near)).add_((two + after).mul_(far)).add_(0.5).floor_()
    return values.to(torch.uint8)
