# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the augmentation on a GPU: every layer is three launches, whatever the batch holds.

Each image of a layer has one operation, and each program of a kernel reads which. The arithmetic is that of
``color_ops``, ``filter_ops``, ``geometry_ops`` and ``erasing``, in the same order and precision, without fused
multiply-adds (:func:`launch`), so that the pixels are theirs. Images are uint8 (B, 3, H, W), planes contiguous; every
kernel writes to other memory than it reads. ``parameters`` has six float64 an image (``kernel_plan``).

What a pixel becomes of its neighbors is in ``gpu_sampling``. With ``TRITON_INTERPRET=1`` all run on the CPU, for
tests.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from vitaos.data.augment.gpu_sampling import blurred, gray_level, rotated, sharpened, shifted
from vitaos.data.augment.op_batch import BLUR_COLUMNS, BLUR_ROWS, Operation

_PIXELS: Final = 1024
_HISTOGRAM_PIXELS: Final = 4096

AUTO_CONTRAST: Final = tl.constexpr(int(Operation.AUTO_CONTRAST))
EQUALIZE: Final = tl.constexpr(int(Operation.EQUALIZE))
INVERT: Final = tl.constexpr(int(Operation.INVERT))
POSTERIZE: Final = tl.constexpr(int(Operation.POSTERIZE))
SOLARIZE: Final = tl.constexpr(int(Operation.SOLARIZE))
SOLARIZE_ADD: Final = tl.constexpr(int(Operation.SOLARIZE_ADD))
BRIGHTNESS: Final = tl.constexpr(int(Operation.BRIGHTNESS))
CONTRAST: Final = tl.constexpr(int(Operation.CONTRAST))
COLOR: Final = tl.constexpr(int(Operation.COLOR))
SHARPNESS: Final = tl.constexpr(int(Operation.SHARPNESS))
ROTATE: Final = tl.constexpr(int(Operation.ROTATE))
SHEAR_X: Final = tl.constexpr(int(Operation.SHEAR_X))
TRANSLATE_X: Final = tl.constexpr(int(Operation.TRANSLATE_X))
ALONG_ROWS: Final = tl.constexpr(BLUR_ROWS)
ALONG_COLUMNS: Final = tl.constexpr(BLUR_COLUMNS)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel, its multiplications and additions rounded apart."""
    kernel[grid](*arguments, **constants, enable_fp_fusion=False)


def flip_copy(images: Tensor, flips: Tensor) -> Tensor:
    """A contiguous copy of uint8 images of any strides, mirrored where ``flips`` (B,) is not 0."""
    out = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    batch, _, height, width = images.shape
    grid = (batch, triton.cdiv(height * width, _PIXELS))
    launch(_flip_copy, grid, images, flips, out, *images.stride(), height, width, BLOCK=_PIXELS)
    return out


def apply_layer(images: Tensor, operations: Tensor, parameters: Tensor, fill: Tensor, *, statistics: bool) -> Tensor:
    """One operation an image, into new memory.

    Args:
        images: uint8 (B, 3, H, W), contiguous.
        operations: int32 (B,).
        parameters: float64 (B, 6).
        fill: uint8 (3,).
        statistics: whether any operation depends on an image's histogram.
    """
    batch, _, height, width = images.shape
    pixels = height * width
    tables = torch.empty(batch, 3, 256, dtype=torch.uint8, device=images.device)
    counts = torch.zeros((batch if statistics else 1), 4, 256, dtype=torch.int32, device=images.device)
    if statistics:
        grid = (batch, triton.cdiv(pixels, _HISTOGRAM_PIXELS))
        launch(_histograms, grid, images, operations, counts, pixels, BLOCK=_HISTOGRAM_PIXELS)
    launch(_tables, (batch,), operations, parameters, counts, tables, pixels)
    out = torch.empty_like(images)
    grid = (batch, triton.cdiv(pixels, _PIXELS))
    launch(_apply, grid, images, operations, parameters, tables, fill, out, height, width, BLOCK=_PIXELS)
    return out


def normalize_and_erase(
    images: Tensor, out: Tensor, scale: Tensor, shift: Tensor, boxes: Tensor, bounds: Tensor, quantiles: Tensor,
    *, noise: bool, by_pixel: bool,
) -> None:  # fmt: skip
    """Normalize uint8 images into ``out`` and fill their boxes, later ones over earlier ones.

    Args:
        images: uint8 (B, 3, H, W), contiguous.
        out: floating (B, 3, H, W), any strides.
        scale, shift: float32 (3,).
        boxes: int64 (N, 5): top, left, height, width, key of the noise; those of an image follow each other.
        bounds: int32 (B + 1,): image b has the boxes bounds[b] to bounds[b + 1].
        quantiles: float32 (65536,).
        noise: normal numbers rather than 0.
        by_pixel: other numbers in every pixel rather than one color a box.
    """
    batch, _, height, width = images.shape
    grid = (batch, triton.cdiv(height * width, _PIXELS))
    launch(
        _normalize_and_erase, grid, images, out, scale, shift, boxes, bounds, quantiles, *out.stride(), height, width,
        NOISE=noise, BY_PIXEL=by_pixel, BLOCK=_PIXELS,
    )  # fmt: skip


@triton.jit
def _flip_copy(
    images, flips, out, batch_stride, channel_stride, row_stride, column_stride, height, width, BLOCK: tl.constexpr
):
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < height * width
    row, column = pixel // width, pixel % width
    source = tl.where(tl.load(flips + image) != 0, width - 1 - column, column)
    for channel in tl.static_range(3):
        start = images + image * batch_stride + channel * channel_stride
        value = tl.load(start + row * row_stride + source * column_stride, mask=mask, other=0)
        tl.store(out + (image * 3 + channel) * height * width + pixel, value, mask=mask)


@triton.jit
def _luminance(red, green, blue):
    """Whole gray levels, ITU-R 601-2 in Pillow's 16-bit fixed point."""
    return (red.to(tl.int32) * 19595 + green.to(tl.int32) * 38470 + blue.to(tl.int32) * 7471 + 32768) >> 16


@triton.jit
def _histograms(images, operations, counts, pixels, BLOCK: tl.constexpr):
    """Counts of each value by channel, and of the gray levels."""
    image = tl.program_id(0).to(tl.int64)
    operation = tl.load(operations + image)
    if (operation == AUTO_CONTRAST) | (operation == EQUALIZE) | (operation == CONTRAST):
        pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        mask = pixel < pixels
        start = images + image * 3 * pixels + pixel
        bins = tl.arange(0, 256)
        own = counts + image * 4 * 256 + bins
        red = tl.load(start, mask=mask, other=0).to(tl.int32)
        green = tl.load(start + pixels, mask=mask, other=0).to(tl.int32)
        blue = tl.load(start + 2 * pixels, mask=mask, other=0).to(tl.int32)
        if operation == CONTRAST:
            tl.atomic_add(own + 768, tl.histogram(_luminance(red, green, blue), 256, mask=mask))
        else:
            tl.atomic_add(own, tl.histogram(red, 256, mask=mask))
            tl.atomic_add(own + 256, tl.histogram(green, 256, mask=mask))
            tl.atomic_add(own + 512, tl.histogram(blue, 256, mask=mask))


@triton.jit
def _tables(operations, parameters, counts, tables, pixels):
    """The table of 256 values of each channel, for operations that have one."""
    image = tl.program_id(0).to(tl.int64)
    operation = tl.load(operations + image)
    argument = tl.load(parameters + image * 6)
    value = tl.arange(0, 256)
    own = tables + image * 768 + value
    if (operation == AUTO_CONTRAST) | (operation == EQUALIZE):
        for channel in tl.static_range(3):
            count = tl.load(counts + image * 1024 + channel * 256 + value)
            high = tl.max(tl.where(count > 0, value, 0), axis=0)
            if operation == AUTO_CONTRAST:
                low = tl.min(tl.where(count > 0, value, 255), axis=0)
                scale = 255.0 / tl.where(high > low, high - low, 1).to(tl.float64)
                stretched = value.to(tl.float64) * scale + (0.0 - low.to(tl.float64)) * scale
                stretched = tl.minimum(tl.maximum(stretched, 0.0), 255.0)
                tl.store(own + channel * 256, tl.where(high > low, stretched.to(tl.int32), value).to(tl.uint8))
            else:
                last = tl.sum(tl.where(value == high, count, 0), axis=0)
                step = (tl.sum(count, axis=0) - last) // 255
                below = tl.cumsum(count, axis=0) - count
                spread = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
                tl.store(own + channel * 256, tl.where(step > 0, spread, value).to(tl.uint8))
    elif (operation >= INVERT) & (operation <= CONTRAST):
        factor = argument.to(tl.float32)
        if operation == INVERT:
            table = 255 - value
        elif operation == POSTERIZE:
            table = value & (255 << (8 - argument.to(tl.int32)))
        elif operation == SOLARIZE:
            table = tl.where(value.to(tl.float64) < argument, value, 255 - value)
        elif operation == SOLARIZE_ADD:
            table = tl.where(value < 128, tl.minimum(255, value + argument.to(tl.int32)), value)
        elif operation == BRIGHTNESS:
            table = tl.minimum(tl.maximum(factor * value.to(tl.float32), 0.0), 255.0).to(tl.int32)
        else:
            count = tl.load(counts + image * 1024 + 768 + value)
            total = tl.sum(count.to(tl.int64) * value, axis=0)
            mean = tl.floor(total.to(tl.float64) / pixels + 0.5).to(tl.float32)
            blended = (value.to(tl.float32) - mean) * factor + mean
            table = tl.minimum(tl.maximum(blended, 0.0), 255.0).to(tl.int32)
        for channel in tl.static_range(3):
            tl.store(own + channel * 256, table.to(tl.uint8))


@triton.jit
def _apply(images, operations, parameters, tables, fill, out, height, width, BLOCK: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    operation = tl.load(operations + image)
    own = parameters + image * 6
    pixels = height * width
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    row, column = pixel // width, pixel % width
    first = images + image * 3 * pixels
    target = out + image * 3 * pixels + pixel
    if operation == COLOR:
        red = tl.load(first + pixel, mask=mask, other=0)
        green = tl.load(first + pixels + pixel, mask=mask, other=0)
        blue = tl.load(first + 2 * pixels + pixel, mask=mask, other=0)
        gray = _luminance(red, green, blue).to(tl.float32)
        factor = tl.load(own).to(tl.float32)
        tl.store(target, gray_level((red.to(tl.float32) - gray) * factor + gray), mask=mask)
        tl.store(target + pixels, gray_level((green.to(tl.float32) - gray) * factor + gray), mask=mask)
        tl.store(target + 2 * pixels, gray_level((blue.to(tl.float32) - gray) * factor + gray), mask=mask)
    else:
        for channel in tl.static_range(3):
            plane = first + channel * pixels
            outside = tl.load(fill + channel)
            if operation == SHARPNESS:
                factor = tl.load(own).to(tl.float32)
                value = sharpened(plane, row, column, factor, height, width, mask)
            elif operation == ROTATE:
                value = rotated(plane, row, column, own, height, width, outside, mask)
            elif (operation == ALONG_ROWS) | (operation == ALONG_COLUMNS):
                value = blurred(plane, row, column, own, operation == ALONG_ROWS, height, width, mask)
            elif operation > ROTATE:
                along_x = (operation == SHEAR_X) | (operation == TRANSLATE_X)
                value = shifted(plane, row, column, own, along_x, height, width, outside, mask)
            elif operation > 0:
                value = tl.load(plane + pixel, mask=mask, other=0)
                value = tl.load(tables + image * 768 + channel * 256 + value.to(tl.int32), mask=mask, other=0)
            else:
                value = tl.load(plane + pixel, mask=mask, other=0)
            tl.store(target + channel * pixels, value, mask=mask)


@triton.jit
def _noise_bits(key, counter):
    """64 mixed bits for a key and each counter: SplitMix64's finalizer."""
    state = key.to(tl.uint64, bitcast=True) + counter.to(tl.uint64) * 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)


@triton.jit
def _normalize_and_erase(
    images, out, scale, shift, boxes, bounds, quantiles, batch_stride, channel_stride, row_stride, column_stride,
    height, width, NOISE: tl.constexpr, BY_PIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    pixels = height * width
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    row, column = pixel // width, pixel % width
    source = images + image * 3 * pixels + pixel
    target = out + image * batch_stride + row * row_stride + column * column_stride
    for channel in tl.static_range(3):
        value = tl.load(source + channel * pixels, mask=mask, other=0).to(tl.float32)
        value = value * tl.load(scale + channel) + tl.load(shift + channel)
        for box in range(tl.load(bounds + image), tl.load(bounds + image + 1)):
            own = boxes + box * 5
            top, left = tl.load(own), tl.load(own + 1)
            inside = (row >= top) & (row < top + tl.load(own + 2)) & (column >= left)
            inside = inside & (column < left + tl.load(own + 3)) & mask
            if NOISE:
                counter = pixel if BY_PIXEL else pixel * 0
                bits = (_noise_bits(tl.load(own + 4), counter) >> (16 * channel)) & 0xFFFF
                value = tl.where(inside, tl.load(quantiles + bits.to(tl.int32), mask=inside, other=0.0), value)
            else:
                value = tl.where(inside, 0.0, value)
        tl.store(target + channel * channel_stride, value.to(out.dtype.element_ty), mask=mask)
