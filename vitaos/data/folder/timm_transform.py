"""timm's CPU recipe, image by image, with draws that depend on the image's place in the epoch alone."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from vitaos.data.augment.randaugment import parse_randaugment
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.crops import CropSettings

TimmTransform = Callable[[Image.Image], torch.Tensor]


def timm_transform(settings: AugmentSettings, img_size: int, crop: CropSettings) -> TimmTransform:
    """timm's training transform: crop, flip, RandAugment or color jitter, normalization, erasing.

    Raises:
        ValueError: for a config string that is wrong; timm passes over the parts it cannot read, or asserts.
    """
    from timm.data import create_transform  # noqa: PLC0415  # slow to import, only this engine needs it

    transform = create_transform(
        input_size=img_size,
        is_training=True,
        scale=crop.scale,
        ratio=crop.ratio,
        hflip=settings.hflip,
        color_jitter=settings.color_jitter or 0.0,
        auto_augment=_timms_spelling(settings.randaugment),
        interpolation="bicubic",
        re_prob=settings.erasing,
        re_mode=settings.erasing_mode,
        re_count=settings.erasing_count,
        mean=settings.mean,
        std=settings.std,
    )
    posterize_to_black(transform)
    return transform


def posterize_to_black(transform: Any) -> None:
    """Let timm's posterize keep 0 bits, which is a black image, in place in a composed transform.

    ``PosterizeIncreasing`` asks for 0 bits at magnitude 10; Pillow from 13 on refuses that.
    """
    from timm.data import auto_augment  # noqa: PLC0415  # slow to import, only this engine needs it

    for stage in transform.transforms:
        for operation in getattr(stage, "ops", ()):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize


def _timms_spelling(randaugment: str | None) -> str | None:
    """The checked config string; ``mstdinf`` in the one form that timm reads as the uniform draw."""
    if not randaugment:
        return None
    parse_randaugment(randaugment)
    return randaugment.replace("mstdinf", "mstd101")


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """timm's posterize, and a black image for no bits."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return image if bits_to_keep >= 8 else ImageOps.posterize(image, bits_to_keep)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Give the process-wide generators back as they were (the main process makes batches itself with ``workers=0``)."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def seed_rngs(seed: int) -> None:
    """timm's transforms draw from all three; the device's generator is none of theirs and stays untouched."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.default_generator.manual_seed(seed)
