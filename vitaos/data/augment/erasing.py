"""Random erasing of normalized images: rectangles of noise, each pixel a function of (seed, epoch, position).

Shape, aspect and place are drawn as ``timm.data.random_erasing.RandomErasing`` draws them (arXiv 1708.04896). The
noise is a counter-based hash of (image key, pixel) looked up in a table of normal quantiles: the same bits on any
device, in any batch, on any number of processes, and computed for the erased pixels only.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.counter_rng import mix, uniforms
from vitaos.data.augment import rng_streams
from vitaos.data.augment.staging import StagingBuffer

MODES: Final = ("pixel", "rand", "const")
_ATTEMPTS: Final = 10
_QUANTILE_BITS: Final = 16
_GOLDEN: Final = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1: Final = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2: Final = 0x94D049BB133111EB - (1 << 64)


class Boxes:
    """The rectangles of one batch: on the host their number of pixels, staged for the device everything else."""

    def __init__(
        self, staging: StagingBuffer, boxes: NDArray[np.int64], keys: NDArray[np.uint64], image_width: int
    ) -> None:
        image, top, left, height, width = boxes.T
        areas = height * width
        self.pixels = int(areas.sum())
        self.handles = (-1, -1)
        if self.pixels:
            corner = top * image_width + left
            before = np.cumsum(areas) - areas
            columns = np.stack([image, corner, width, keys.view(np.int64), before], axis=1)
            self.handles = (staging.add(columns), staging.add(areas))


class RandomErasing:
    """Erases rectangles of a batch of normalized images.

    Args:
        seed: the run's seed.
        probability: chance that an image is erased.
        mode: "pixel" (normal noise in every pixel and channel), "rand" (one normal color a rectangle) or "const" (0).
        count: at most so many rectangles an image, the number being uniform from 1; their area is shared.
        area: range of the erased share of the image.
        aspect: range of the aspect ratio (height over width), drawn uniformly in its logarithm.

    Raises:
        ValueError: for an unknown mode, a probability outside 0..1, or a count below 1.
    """

    def __init__(
        self,
        *,
        seed: int,
        probability: float = 0.25,
        mode: str = "pixel",
        count: int = 1,
        area: tuple[float, float] = (0.02, 1 / 3),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"erasing_mode={mode!r} is unknown: use one of {', '.join(MODES)}")
        if not 0 <= probability <= 1:
            raise ValueError(f"erasing={probability} is a probability: give a number from 0 to 1")
        if count < 1:
            raise ValueError(f"erasing_count={count} must be at least 1")
        self.seed = seed
        self.probability = probability
        self.mode = mode
        self.count = count
        self.area = area
        self.log_aspect = (math.log(aspect[0]), math.log(aspect[1]))
        self._quantiles: dict[torch.device, Tensor] = {}

    def draw(
        self, epoch: int, positions: NDArray[np.int64], height: int, width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The rectangles of a batch.

        Returns:
            (N, 5) int64 rows (image in the batch, top, left, height, width) and the (N,) noise keys.
        """
        chosen = uniforms(self.seed, epoch, positions, rng_streams.ERASE_CHOICE, 1)[:, 0] <= self.probability
        images = np.flatnonzero(chosen) if self.probability > 0 else np.empty(0, np.int64)
        counts = np.ones(len(images), np.int64)
        if self.count > 1:
            counts += (
                uniforms(self.seed, epoch, positions[images], rng_streams.ERASE_COUNT, 1)[:, 0] * self.count
            ).astype(np.int64)
        boxes, keys = [], []
        for number in range(int(counts.max(initial=0))):
            having = images[counts > number]
            rectangle, fits = self._rectangles(
                epoch, positions[having], counts[counts > number], number, (height, width)
            )
            boxes.append(np.concatenate([having[:, None], rectangle], axis=1)[fits])
            keys.append(mix(self.seed, epoch, positions[having], rng_streams.ERASE_NOISE, number)[fits])
        if not boxes:
            return np.empty((0, 5), np.int64), np.empty(0, np.uint64)
        return np.concatenate(boxes), np.concatenate(keys)

    def _rectangles(
        self, epoch: int, positions: NDArray[np.int64], counts: NDArray[np.int64], number: int, size: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(N, 4) top, left, height, width of the first of ten tries that fits, and (N,) whether any did."""
        height, width = size
        skip = number * 2 * _ATTEMPTS
        tries = uniforms(self.seed, epoch, positions, rng_streams.ERASE_SHAPE, skip + 2 * _ATTEMPTS)[:, skip:]
        low, high = self.area
        target = (low + (high - low) * tries[:, :_ATTEMPTS]) * (height * width) / counts[:, None]
        low, high = self.log_aspect
        aspect = np.exp(low + (high - low) * tries[:, _ATTEMPTS:])
        heights = np.rint(np.sqrt(target * aspect)).astype(np.int64)
        widths = np.rint(np.sqrt(target / aspect)).astype(np.int64)
        fitting = (heights < height) & (widths < width)
        first = fitting.argmax(axis=1)[:, None]
        box_height = np.take_along_axis(heights, first, axis=1)[:, 0]
        box_width = np.take_along_axis(widths, first, axis=1)[:, 0]
        place = uniforms(self.seed, epoch, positions, rng_streams.ERASE_PLACE, 2 * number + 2)[:, 2 * number :]
        top = (place[:, 0] * (height - box_height + 1)).astype(np.int64)
        left = (place[:, 1] * (width - box_width + 1)).astype(np.int64)
        return np.stack([top, left, box_height, box_width], axis=1), np.any(fitting, axis=1)

    def plan(self, staging: StagingBuffer, epoch: int, positions: NDArray[np.int64], height: int, width: int) -> Boxes:
        """Draw the rectangles of a batch and stage them."""
        return Boxes(staging, *self.draw(epoch, positions, height, width), width)

    def apply(self, images: Tensor, boxes: Boxes, device_tensors: list[Tensor]) -> Tensor:
        """Erase in place.

        Args:
            images: (B, 3, H, W) normalized, floating, any memory format.
            boxes: the plan of this batch.
            device_tensors: the staging on the device of the images.
        """
        if not boxes.pixels:
            return images
        columns, areas = (device_tensors[handle] for handle in boxes.handles)
        # The total is known on the host, so the device never has to be asked for a size.
        which = torch.repeat_interleave(areas, output_size=boxes.pixels)
        image, corner, box_width, key, before = columns.index_select(0, which).unbind(1)
        offset = torch.arange(boxes.pixels, device=images.device) - before
        row = torch.div(offset, box_width, rounding_mode="floor")
        # corner + row * image width + column, with column = offset - row * box width
        pixel = corner + offset + row * (images.shape[3] - box_width)
        if self.mode == "const":
            noise = torch.zeros(boxes.pixels, images.shape[1], device=images.device)
        else:
            noise = self._noise(key, pixel if self.mode == "pixel" else torch.zeros_like(pixel))
        _write_pixels(images, image, pixel, noise.to(images.dtype))
        return images

    def _noise(self, key: Tensor, counter: Tensor) -> Tensor:
        """(P, 3) normal numbers from (P,) keys and counters: three 16-bit slices of one hash, each a quantile."""
        bits = hash_bits(key, counter)
        mask = (1 << _QUANTILE_BITS) - 1
        slices = [(bits >> shift) & mask for shift in (0, _QUANTILE_BITS, 2 * _QUANTILE_BITS)]
        return self.quantiles_on(key.device)[torch.stack(slices, dim=1)]

    def quantiles_on(self, device: torch.device) -> Tensor:
        """The table of normal numbers, float32 (65536,), on a device."""
        if device not in self._quantiles:
            self._quantiles[device] = normal_quantiles().to(device)
        return self._quantiles[device]


def _write_pixels(images: Tensor, image: Tensor, pixel: Tensor, values: Tensor) -> None:
    """Set (P, 3) values at flat pixels of (B, 3, H, W) images, in place."""
    batch, channels, height, width = images.shape
    place = image * (height * width) + pixel
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        images.permute(0, 2, 3, 1).view(-1, channels).index_copy_(0, place, values)
        return
    planes = images.view(batch * channels * height * width)
    place += image * ((channels - 1) * height * width)
    for channel in range(channels):
        planes.index_copy_(0, place + channel * (height * width), values[:, channel])


def normal_quantiles() -> Tensor:
    """(65536,) float32 midpoint quantiles of the standard normal, scaled to variance 1 exactly."""
    size = 1 << _QUANTILE_BITS
    quantiles = torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size)
    return (quantiles / quantiles.square().mean().sqrt()).float()


def hash_bits(key: Tensor, counter: Tensor) -> Tensor:
    """64 mixed bits as int64 for each (key, counter): SplitMix64's finalizer in wrapping int64 arithmetic."""
    state = key + counter * _GOLDEN
    state = (state ^ _shift(state, 30)) * _MIX_1
    state = (state ^ _shift(state, 27)) * _MIX_2
    return state ^ _shift(state, 31)


def _shift(words: Tensor, count: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (words >> count) & ((1 << (64 - count)) - 1)
