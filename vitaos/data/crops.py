"""Which part of an image is seen: random resized crops in training, a center crop in evaluation; no pixels here.

Boxes are (top, left, height, width) in pixels. H and W are an image's height and width, B the images of a batch.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaos.counter_rng import uniforms
from vitaos.data.rng_streams import CROP

TRIES: Final = 10
"""Attempts at a box inside the image before the center is taken (torchvision and timm)."""

CROP_DRAWS: Final = 2 * TRIES + 2
"""Uniform numbers one image needs: (area, shape) for every try, then the place (top, left)."""


def random_resized_crop(
    heights_B: NDArray[np.integer],
    widths_B: NDArray[np.integer],
    draws_BN: NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes with the distribution of torchvision's ``RandomResizedCrop`` (and timm's), from given uniform numbers.

    A try draws an area uniformly in ``scale`` times the image's and a shape log-uniformly in ``ratio``; the first of
    ten that fits is placed uniformly. Where none fits, the largest centered box whose shape lies within ``ratio``.

    Args:
        heights_B, widths_B: sizes of the images.
        draws_BN: (B, CROP_DRAWS) uniform numbers in [0, 1).
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.

    Returns:
        (B, 4) int64 boxes (top, left, height, width), each inside its image.
    """
    heights_B1 = np.asarray(heights_B, dtype=np.float64)[:, None]
    widths_B1 = np.asarray(widths_B, dtype=np.float64)[:, None]
    areas_BT = heights_B1 * widths_B1 * (scale[0] + (scale[1] - scale[0]) * draws_BN[:, 0 : 2 * TRIES : 2])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shapes_BT = np.exp(low + (high - low) * draws_BN[:, 1 : 2 * TRIES : 2])
    tried_widths_BT = np.rint(np.sqrt(areas_BT * shapes_BT))
    tried_heights_BT = np.rint(np.sqrt(areas_BT / shapes_BT))
    fits_BT = (
        (tried_widths_BT > 0)
        & (tried_widths_BT <= widths_B1)
        & (tried_heights_BT > 0)
        & (tried_heights_BT <= heights_B1)
    )
    first_B1 = np.argmax(fits_BT, axis=1)[:, None]
    fits_B: NDArray[np.bool_] = np.any(fits_BT, axis=1)
    crop_widths_B = np.take_along_axis(tried_widths_BT, first_B1, axis=1)[:, 0]
    crop_heights_B = np.take_along_axis(tried_heights_BT, first_B1, axis=1)[:, 0]

    whole_heights_B, whole_widths_B = heights_B1[:, 0], widths_B1[:, 0]
    center_heights_B = np.clip(np.rint(whole_widths_B / ratio[0]), 1, whole_heights_B)
    center_widths_B = np.clip(np.rint(whole_heights_B * ratio[1]), 1, whole_widths_B)
    crop_heights_B = np.where(fits_B, crop_heights_B, center_heights_B)
    crop_widths_B = np.where(fits_B, crop_widths_B, center_widths_B)
    rooms_B2 = np.stack([whole_heights_B - crop_heights_B, whole_widths_B - crop_widths_B], axis=1)
    places_B2 = np.where(fits_B[:, None], np.floor(draws_BN[:, -2:] * (rooms_B2 + 1)), rooms_B2 // 2)
    return np.concatenate([places_B2, crop_heights_B[:, None], crop_widths_B[:, None]], axis=1).astype(np.int64)


@dataclass(frozen=True)
class CropSettings:
    """The training crop of a recipe.

    Attributes:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.

    Raises:
        ValueError: a range that is empty or impossible.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(
                f"crop_scale must lie in (0, 1] and crop_ratio above 0, each in order; got {self.scale} and "
                f"{self.ratio}"
            )


def training_crops(
    settings: CropSettings,
    positions_B: NDArray[np.integer],
    heights_B: NDArray[np.integer],
    widths_B: NDArray[np.integer],
    *,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """The boxes of a batch: functions of (seed, epoch, position) and the images' sizes alone, the same in every
    loader.
    """
    draws_BN = uniforms(seed, epoch, positions_B, CROP, CROP_DRAWS)
    return random_resized_crop(heights_B, widths_B, draws_BN, settings.scale, settings.ratio)


class CenterCrop(NamedTuple):
    """Evaluation of one image: it is resized to (height, width), then a square is cut at (top, left) of the result."""

    height: int
    width: int
    top: int
    left: int


def center_crop(height: int, width: int, eval_resize: int, img_size: int) -> CenterCrop:
    """Shorter side to ``eval_resize``, then the center square of ``img_size`` (torchvision's rounding in both).

    Raises:
        ValueError: when ``img_size`` is larger than ``eval_resize``.
    """
    if img_size > eval_resize:
        raise ValueError(f"eval_resize {eval_resize} is smaller than the image size {img_size} that is cut from it")
    if width <= height:
        resized_height, resized_width = int(eval_resize * height / width), eval_resize
    else:
        resized_height, resized_width = eval_resize, int(eval_resize * width / height)
    top = round((resized_height - img_size) / 2.0)
    left = round((resized_width - img_size) / 2.0)
    return CenterCrop(resized_height, resized_width, top, left)
