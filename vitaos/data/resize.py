"""From a decoded image to the pixels a model sees: cut a box, resize it, lay it into a batch.

``bicubic`` is antialiased bicubic interpolation with the kernel of Pillow (a = -0.5), computed by PyTorch's
vectorized uint8 kernel: 0.03 gray levels from Pillow on average at a fifth of its time. ``area`` averages the covered
pixels as OpenCV does.

Shapes: H, W height and width of an image or box, S the side of the square output.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.data.crops import center_crop

Resize = Literal["bicubic", "area"]
RESIZES: Final = ("bicubic", "area")


Resizer = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
"""Takes an image (rows may be strided: a box cut from a larger image), height and width; gives (height, width, 3)."""


def bicubic(image_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Antialiased bicubic interpolation, as Pillow computes it."""
    # Contiguous before PyTorch sees it, whose own copy would start threads; writable, which a file map is not.
    cut_HW3 = np.array(image_HW3, order="C")
    # With the batch dimension made first the strides are channels-last, which PyTorch reads and writes without a copy.
    image_13HW = torch.from_numpy(cut_HW3)[None].permute(0, 3, 1, 2)
    resized_13HW = torch.nn.functional.interpolate(image_13HW, size=(height, width), mode="bicubic", antialias=True)
    return resized_13HW[0].permute(1, 2, 0).numpy()


def area(image_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """OpenCV's INTER_AREA, which FFCV uses: the mean of the covered area where the image shrinks.

    Where a side grows, both are interpolated linearly from the pixel that holds the place, as OpenCV does.
    """
    shrinks = height <= image_HW3.shape[0] and width <= image_HW3.shape[1]
    along = _area_means if shrinks else _linear_in_pixel
    resized_hw3 = along(along(image_HW3, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return np.floor(resized_hw3 + np.float32(0.5)).astype(np.uint8)


def _area_means(image_HW3: NDArray[Any], height: int) -> NDArray[np.float32]:
    """Means of ``height`` equal pieces of the rows, pixels on an edge counted by their covered part."""
    rows = image_HW3.shape[0]
    edges = np.arange(height + 1) * (rows / height)
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    parts = (edges - whole).astype(np.float32)[:, None, None]
    sums_HW3 = np.zeros((rows + 1, *image_HW3.shape[1:]), dtype=np.float32)
    np.cumsum(image_HW3, axis=0, dtype=np.float32, out=sums_HW3[1:])
    up_to_edges = sums_HW3[whole] + parts * image_HW3[whole]
    return np.diff(up_to_edges, axis=0) * np.float32(height / rows)


def _linear_in_pixel(image_HW3: NDArray[Any], height: int) -> NDArray[np.float32]:
    """Rows between neighbors, only across the border that falls into an output pixel."""
    rows = image_HW3.shape[0]
    ratio = height / rows
    places = np.arange(height)
    # OpenCV's own order of operations and precision: the share jumps where it passes a whole number.
    first = np.floor(places * (1.0 / ratio)).astype(np.int64)
    share = ((places + 1) - (first + 1) * ratio).astype(np.float32)[:, None, None]
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    second = np.minimum(first + 1, rows - 1)
    return (1 - share) * image_HW3[first] + share * image_HW3[second]


RESIZERS: Final[dict[str, Resizer]] = {"bicubic": bicubic, "area": area}


def crop_and_resize(
    image_HW3: NDArray[np.uint8], box: NDArray[np.int64], out_SS3: NDArray[np.uint8], resize: Resizer
) -> None:
    """Write the box (top, left, height, width) of an image, resized to the square output, into ``out_SS3``."""
    top, left, height, width = box.tolist()
    _resize_into(image_HW3[top : top + height, left : left + width], out_SS3, resize)


def resize_and_center_crop(
    image_HW3: NDArray[np.uint8], eval_resize: int, out_SS3: NDArray[np.uint8], resize: Resizer
) -> None:
    """Write the evaluation view into ``out_SS3``: shorter side to ``eval_resize``, then the center square."""
    size = out_SS3.shape[0]
    crop = center_crop(image_HW3.shape[0], image_HW3.shape[1], eval_resize, size)
    resized_HW3 = np.empty((crop.height, crop.width, 3), dtype=np.uint8)
    _resize_into(image_HW3, resized_HW3, resize)
    out_SS3[...] = resized_HW3[crop.top : crop.top + size, crop.left : crop.left + size]


def _resize_into(image_HW3: NDArray[np.uint8], out_HW3: NDArray[np.uint8], resize: Resizer) -> None:
    """An image that has the size already is copied unchanged, as Pillow does."""
    if image_HW3.shape == out_HW3.shape:
        out_HW3[...] = image_HW3
    else:
        out_HW3[...] = resize(image_HW3, out_HW3.shape[0], out_HW3.shape[1])


def empty_batch(count: int, size: int, *, pin_memory: bool = False) -> tuple[Tensor, NDArray[np.uint8]]:
    """Fresh memory for a batch: the (B, 3, S, S) uint8 tensor (channels-last in memory) and its (B, S, S, 3) view
    for writers.
    """
    memory_BSS3 = torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=pin_memory)
    return memory_BSS3.permute(0, 3, 1, 2), memory_BSS3.numpy()
