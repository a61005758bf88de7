# ruff: noqa: ANN001, ANN201, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def"
"""What the kernels of the augmentation compute of a pixel's neighbors, in Triton: geometry, sharpness, blur.

The arithmetic of ``geometry_ops`` and ``filter_ops``, as ``gpu_kernels`` says. ``plane`` is one channel of one uint8
image, ``own`` the image's parameters (``kernel_plan``), ``row`` and ``column`` the pixels of a program, ``mask`` those
of them that exist.
"""

import triton
import triton.language as tl

__all__ = ["blurred", "gray_level", "rotated", "sharpened", "shifted"]


@triton.jit
def _cubic(first, second, third, fourth, part):
    """Pillow's cubic (a = -1) at a distance of 0..1 from the second of four values."""
    rest = 1 - part
    value = (first - second) * ((0.0 - part) * rest * rest) + second
    value = value + (third - second) * (part * (1 + part * rest))
    return value + (fourth - second) * ((0.0 - part) * part * rest)


@triton.jit
def _four(line, place, size, stride, part, mask):
    """Interpolate four values of lines that start at ``line``, the second of them at ``place``; edges repeated."""
    last = size - 1
    first = tl.load(line + tl.minimum(tl.maximum(place - 1, 0), last) * stride, mask=mask, other=0).to(tl.float32)
    second = tl.load(line + tl.minimum(tl.maximum(place, 0), last) * stride, mask=mask, other=0).to(tl.float32)
    third = tl.load(line + tl.minimum(tl.maximum(place + 1, 0), last) * stride, mask=mask, other=0).to(tl.float32)
    fourth = tl.load(line + tl.minimum(tl.maximum(place + 2, 0), last) * stride, mask=mask, other=0).to(tl.float32)
    return _cubic(first, second, third, fourth, part)


@triton.jit
def gray_level(value):
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.uint8)


@triton.jit
def rotated(plane, row, column, own, height, width, fill, mask):
    """Sample a plane at an affine map (a, b, c, d, e, f) of the pixels' centers."""
    x, y = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
    source_x = tl.load(own) * x + tl.load(own + 1) * y + tl.load(own + 2)
    source_y = tl.load(own + 3) * x + tl.load(own + 4) * y + tl.load(own + 5)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    source_x, source_y = source_x - 0.5, source_y - 0.5
    left, top = tl.floor(source_x), tl.floor(source_y)
    part_x, part_y = (source_x - left).to(tl.float32), (source_y - top).to(tl.float32)
    left, top = left.to(tl.int32), top.to(tl.int32)
    inside = inside & mask
    last = height - 1
    first = _four(plane + tl.minimum(tl.maximum(top - 1, 0), last) * width, left, width, 1, part_x, inside)
    second = _four(plane + tl.minimum(tl.maximum(top, 0), last) * width, left, width, 1, part_x, inside)
    third = _four(plane + tl.minimum(tl.maximum(top + 1, 0), last) * width, left, width, 1, part_x, inside)
    fourth = _four(plane + tl.minimum(tl.maximum(top + 2, 0), last) * width, left, width, 1, part_x, inside)
    return tl.where(inside, gray_level(_cubic(first, second, third, fourth, part_y)), fill)


@triton.jit
def shifted(plane, row, column, own, along_x, height, width, fill, mask):
    """Move every row along x, or every column along y, by offset + slope * (line + 0.5)."""
    line, place = tl.where(along_x, row, column), tl.where(along_x, column, row)
    size, stride = tl.where(along_x, width, height), tl.where(along_x, 1, width)
    shift = tl.load(own + 1) + tl.load(own) * (line.to(tl.float64) + 0.5)
    whole = tl.floor(shift)
    part = (shift - whole).to(tl.float32)
    source = place + whole.to(tl.int32)
    nearest = source + (part >= 0.5).to(tl.int32)
    inside = (nearest >= 0) & (nearest < size) & mask
    value = _four(plane + tl.where(along_x, row * width, column), source, size, stride, part, inside)
    return tl.where(inside, gray_level(value), fill)


@triton.jit
def sharpened(plane, row, column, factor, height, width, mask):
    """Blend with a smoothed image (3 x 3, center 5, others 1, over 13); the border stays as it is."""
    center = tl.load(plane + row * width + column, mask=mask, other=0)
    within = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1) & mask
    total = center.to(tl.int32) * 4
    for down in tl.static_range(3):
        for along in tl.static_range(3):
            place = (row + (down - 1)) * width + column + (along - 1)
            total += tl.load(plane + place, mask=within, other=0).to(tl.int32)
    smooth = tl.floor((total.to(tl.float32) + 6.5) * (1 / 13))
    return tl.where(within, gray_level((center.to(tl.float32) - smooth) * factor + smooth), center)


@triton.jit
def blurred(plane, row, column, own, along_x, height, width, mask):
    """One pass of a box filter along an axis, edges repeated; all products and sums are exact."""
    place = tl.where(along_x, column, row)
    last, stride = tl.where(along_x, width, height) - 1, tl.where(along_x, 1, width)
    line = plane + tl.where(along_x, row * width, column)
    here = tl.load(line + place * stride, mask=mask, other=0).to(tl.float64)
    one = tl.load(line + tl.maximum(place - 1, 0) * stride, mask=mask, other=0).to(tl.float64)
    two = tl.load(line + tl.maximum(place - 2, 0) * stride, mask=mask, other=0).to(tl.float64)
    next_ = tl.load(line + tl.minimum(place + 1, last) * stride, mask=mask, other=0).to(tl.float64)
    after = tl.load(line + tl.minimum(place + 2, last) * stride, mask=mask, other=0).to(tl.float64)
    value = here * tl.load(own) + (one + next_) * tl.load(own + 1) + (two + after) * tl.load(own + 2)
    return tl.floor(value + 0.5).to(tl.uint8)
