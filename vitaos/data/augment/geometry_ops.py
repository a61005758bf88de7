"""Rotation, shear and translation with Pillow's bicubic affine transform: uint8 (n, 3, H, W) in, uint8 out.

Pillow samples the source at the transform of the pixel's center (x + 0.5, y + 0.5) with the cubic kernel of a = -1
(not the -0.5 of its resize, nor the -0.75 of torch's grid_sample), repeats edge pixels, fills pixels whose center falls
outside and cuts fractions off. Shears and translations move along one axis only, where four taps instead of sixteen do.
"""

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_BORDER: Final = 4  # two repeated pixels on either side, as far as the four taps reach


def line_shifts(slope: NDArray[np.float64], offset: NDArray[np.float64], lines: int) -> NDArray[np.float64]:
    """(n, lines) by how many pixels the source of each line lies ahead: offset + slope * (line + 0.5)."""
    return offset[:, None] + slope[:, None] * (np.arange(lines) + 0.5)


def split_shifts(shifts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Whole and fractional part of shifts, computed in double precision on the host as Pillow does."""
    whole = np.floor(shifts)
    return whole.astype(np.int64), (shifts - whole).astype(np.float32)


def rotation_matrices(degrees: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """(n, 6) coefficients (a, b, c, d, e, f) of Pillow's map from the turned image back to the source."""
    angle = -np.radians(degrees % 360.0)
    cosine, sine = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    x, y = width / 2, height / 2
    return np.stack([cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y], axis=1)


def shift_rows(images: Tensor, whole: Tensor, part: Tensor, fill: Tensor) -> Tensor:
    """Move every row along x.

    Args:
        images: uint8 (n, 3, H, W).
        whole: (n, H) int64, ``part``: (n, H) float32; see :func:`split_shifts`.
        fill: (3,) uint8, the color of what comes from outside.
    """
    width = images.shape[3]
    rows, columns = _grid(images)
    source = columns + whole[:, :, None]
    inside = _nearest_inside(source, part[:, :, None], width)
    first = source.clamp_(-1, width - 1).add_(1 + rows * (width + _BORDER))
    flat = F.pad(images.float(), (2, 2, 0, 0), mode="replicate").flatten(2)
    taps = [_take(flat, first, tap, images) for tap in range(4)]
    return _finish(_combine(taps, _weights(part[:, None, :, None])), inside, fill)


def shift_columns(images: Tensor, whole: Tensor, part: Tensor, fill: Tensor) -> Tensor:
    """Move every column along y; ``whole`` and ``part`` are (n, W)."""
    height, width = images.shape[2:]
    rows, columns = _grid(images)
    source = rows + whole[:, None, :]
    inside = _nearest_inside(source, part[:, None, :], height)
    first = source.clamp_(-1, height - 1).add_(1).mul_(width).add_(columns)
    flat = F.pad(images.float(), (0, 0, 2, 2), mode="replicate").flatten(2)
    taps = [_take(flat, first, tap * width, images) for tap in range(4)]
    return _finish(_combine(taps, _weights(part[:, None, None, :])), inside, fill)


def rotate(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Sample at an affine map.

    Args:
        images: uint8 (n, 3, H, W).
        matrices: (n, 6) float64; see :func:`rotation_matrices`.
        fill: (3,) uint8.
    """
    height, width = images.shape[2:]
    a, b, c, d, e, f = (m.view(-1, 1, 1) for m in matrices.unbind(1))
    rows, columns = (axis.double().add_(0.5) for axis in _grid(images))
    source_x, source_y = a * columns + b * rows + c, d * columns + e * rows + f
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    left, part_x = _split(source_x)
    top, part_y = _split(source_y)
    pitch = width + _BORDER
    first = top.clamp_(-1, height - 1).add_(1).mul_(pitch).add_(left.clamp_(-1, width - 1)).add_(1)
    weights_x = _weights(part_x[:, None])
    flat = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").flatten(2)
    lines = []
    for line in range(4):
        taps = [_take(flat, first, line * pitch + tap, images) for tap in range(4)]
        lines.append(_combine(taps, weights_x))
    return _finish(_combine(lines, _weights(part_y[:, None])), inside, fill)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers (H, 1) and column numbers (W,), int64."""
    height, width = images.shape[2:]
    return torch.arange(height, device=images.device).view(-1, 1), torch.arange(width, device=images.device)


def _take(flat: Tensor, first: Tensor, ahead: int, images: Tensor) -> Tensor:
    """Pixels ``ahead`` of the flat places ``first`` (n, H, W), the same for all channels, in the shape of the images.

    The view starts ``ahead`` pixels on, so that all taps share one index.
    """
    index = first.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
    return flat[:, :, ahead:].gather(2, index).view(images.shape)


def _nearest_inside(source: Tensor, part: Tensor, size: int) -> Tensor:
    """Whether the sampled center lies within the image along the axis of the shift."""
    nearest = source + (part >= 0.5)
    return (nearest >= 0) & (nearest < size)


def _weights(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the first, third and fourth tap at a distance of 0..1 from the second; the second has the rest."""
    rest = 1 - part
    return -part * rest * rest, part * (1 + part * rest), -part * part * rest


def _combine(taps: list[Tensor], weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Interpolate, as differences from the second tap: flat regions and whole shifts come out exact."""
    first, second, third, fourth = taps
    value = (first - second).mul_(weights[0]).add_(second)
    return value.addcmul_(third.sub_(second), weights[1]).addcmul_(fourth.sub_(second), weights[2])


def _finish(values: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """Gray levels, and the fill where the source lies outside."""
    mask = inside.unsqueeze(1).to(torch.uint8)
    return values.clamp_(0, 255).to(torch.uint8).mul_(mask).add_((1 - mask) * fill.view(-1, 1, 1))


def _split(center: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the pixel at or before a position, and the distance to it in float32."""
    position = center.sub_(0.5)
    whole = position.floor()
    return whole.long(), position.sub_(whole).float()
