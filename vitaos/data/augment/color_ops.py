"""Operations on gray values, equal to Pillow's to the last bit on the CPU: uint8 (n, 3, H, W) in, uint8 out.

Everything that maps each value by itself is a table of 256 entries an image, made on the host where it depends on the
argument alone and on the device where it depends on the image; nothing here waits for the device.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.data.augment.op_batch import OpBatch, Operation

_HISTOGRAM_SLICES = 8


def host_tables(op_batch: OpBatch) -> NDArray[np.uint8]:
    """(B, 256) tables of the operations whose table needs no look at the image; for others, the identity."""
    value = np.arange(256)[None, :]
    tables = np.broadcast_to(value, (len(op_batch.operations), 256)).copy()
    for operation in (
        Operation.INVERT,
        Operation.POSTERIZE,
        Operation.SOLARIZE,
        Operation.SOLARIZE_ADD,
        Operation.BRIGHTNESS,
    ):
        here = np.flatnonzero(op_batch.operations == operation)
        argument = op_batch.arguments[here, None]
        if operation == Operation.INVERT:
            tables[here] = 255 - value
        elif operation == Operation.POSTERIZE:
            tables[here] = value & (0xFF << (8 - np.clip(argument.astype(np.int64), 0, 8)))
        elif operation == Operation.SOLARIZE:
            tables[here] = np.where(value < argument, value, 255 - value)
        elif operation == Operation.SOLARIZE_ADD:
            tables[here] = np.where(value < 128, np.minimum(255, value + argument.astype(np.int64)), value)
        else:
            # Pillow blends with black in single precision and cuts the fraction off.
            tables[here] = np.clip(argument.astype(np.float32) * value.astype(np.float32), 0, 255)
    return tables.astype(np.uint8)


def apply_tables(images: Tensor, tables: Tensor) -> Tensor:
    """Map values through (n, 256) or (n, 3, 256) uint8 tables."""
    count, channels = images.shape[:2]
    if tables.dim() == 2:
        return tables.gather(1, images.reshape(count, -1).long()).view_as(images)
    return tables.gather(2, images.reshape(count, channels, -1).long()).view_as(images)


def luminance(images: Tensor) -> Tensor:
    """(n, 1, H, W) float32 whole gray levels, ITU-R 601-2 in Pillow's 16-bit fixed point.

    Every partial sum is a whole number below 2**24, hence exact in float32, whatever the order or fusing.
    """
    red, green, blue = images.float().unbind(1)
    total = red.mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768)
    return total.mul_(1 / 65536).floor_().unsqueeze(1)


def _to_uint8(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's own gray: ``factors`` (n,) float32, 0 gray, 1 unchanged."""
    gray = luminance(images)
    return _to_uint8((images - gray).mul_(factors.view(-1, 1, 1, 1)).add_(gray))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's mean gray, rounded to a gray level: ``factors`` (n,) float32."""
    pixels = images.shape[-2] * images.shape[-1]
    total = luminance(images).flatten(1).sum(1, dtype=torch.float64)
    mean = (total / pixels + 0.5).floor().float().unsqueeze(1)
    value = torch.arange(256, dtype=torch.float32, device=images.device)
    return apply_tables(images, _to_uint8((value - mean).mul_(factors.unsqueeze(1)).add_(mean)))


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its darkest value becomes 0 and its lightest 255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    # A number over a tensor would be number * reciprocal, which rounds twice.
    scale = torch.full_like(high, 255.0) / (high - low)
    value = torch.arange(256, dtype=torch.float64, device=images.device)
    # Multiply and add apart, in Pillow's order, for the same rounding.
    stretched = (value * scale + (-low * scale)).trunc()
    table = torch.where(high > low, stretched, value)
    return apply_tables(images, _to_uint8(table))


def equalize(images: Tensor) -> Tensor:
    """Flatten each channel's histogram by Pillow's integer rule; channels with too little to spread stay."""
    counts = histograms(images)
    values = torch.arange(256, device=images.device)
    last = torch.where(counts > 0, values, 0).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    below = counts.cumsum(2) - counts
    table = (below + step // 2) // step.clamp(min=1)
    return apply_tables(images, torch.where(step > 0, table, values).clamp_(max=255).to(torch.uint8))


def histograms(images: Tensor) -> Tensor:
    """(n, 3, 256) int64 counts of each value."""
    count, channels = images.shape[:2]
    flat = images.reshape(count * channels, -1)
    # Several partial histograms a channel, so that on a GPU fewer threads add to the same counter.
    slices = _HISTOGRAM_SLICES if images.is_cuda and flat.shape[1] % _HISTOGRAM_SLICES == 0 else 1
    index = flat.reshape(count * channels * slices, -1).long()
    counts = torch.zeros(index.shape[0], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, index, torch.ones((), dtype=torch.int32, device=images.device).expand_as(index))
    return counts.view(count, channels, slices, 256).sum(2, dtype=torch.int64)
