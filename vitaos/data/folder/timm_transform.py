"""timm's CPU recipe, image by image, with draws that depend on the image's place in the epoch alone."""

import itertools
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps

from vitaos.data.augment.randaugment import parse_randaugment
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.crops import CropSettings

TimmTransform = Callable[[Image.Image], torch.Tensor]
TimmViews = Callable[[Image.Image], list[torch.Tensor]]
"""An image to its views, normalized."""
_AUTO_AUGMENT: Final = re.compile(r"(v0r?|originalr?|3a)(-mstd(\d+\.?\d*))?")
_AUGMIX: Final = re.compile(r"augmix(-(m\d+|w[1-9]\d*|d[1-9]\d*|a\d*\.?\d+|b[01]|mstd\d+\.?\d*))*")


def timm_transform(settings: AugmentSettings, img_size: int, crop: CropSettings) -> TimmTransform:
    """timm's training transform: crop, flip, RandAugment, AutoAugment, AugMix or color jitter, normalization, erasing.

    Raises:
        ValueError: for a config string that is wrong; timm passes over the parts it cannot read, or asserts.
    """
    transform: TimmTransform = _create(settings, img_size, crop, separate=False)
    posterize_to_black(transform)
    return transform


def timm_views(settings: AugmentSettings, img_size: int, crop: CropSettings) -> TimmViews:
    """That transform for `settings.views` of each image: one crop, the first view not augmented further.

    Raises:
        ValueError: as :func:`timm_transform`.
    """
    if settings.views == 1:
        transform = timm_transform(settings, img_size, crop)
        return lambda image: [transform(image)]
    make_crop, augment, normalize = _create(settings, img_size, crop, separate=True)
    posterize_to_black(augment)

    def views(image: Image.Image) -> list[torch.Tensor]:
        cropped = make_crop(image)
        return [normalize(augment(cropped) if number else cropped) for number in range(settings.views)]

    return views


def _create(settings: AugmentSettings, img_size: int, crop: CropSettings, *, separate: bool) -> Any:
    from timm.data import create_transform  # noqa: PLC0415  # slow to import, only this engine needs it

    return create_transform(
        input_size=img_size,
        is_training=True,
        scale=crop.scale,
        ratio=crop.ratio,
        hflip=settings.hflip,
        color_jitter=settings.color_jitter or 0.0,
        auto_augment=_checked_auto_augment(settings) or _timms_spelling(settings.randaugment),
        interpolation="bicubic",
        re_prob=settings.erasing,
        re_mode=settings.erasing_mode,
        re_count=settings.erasing_count,
        mean=settings.mean,
        std=settings.std,
        separate=separate,
    )


def posterize_to_black(transform: Any) -> None:
    """Let timm's posterize keep 0 bits, which is a black image, in place in a composed transform.

    ``PosterizeIncreasing`` asks for 0 bits at magnitude 10; Pillow from 13 on refuses that.
    """
    from timm.data import auto_augment  # noqa: PLC0415  # slow to import, only this engine needs it

    for stage in getattr(transform, "transforms", ()):
        of_policy = itertools.chain.from_iterable(getattr(stage, "policy", ()))
        for operation in (*getattr(stage, "ops", ()), *of_policy):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize


def _checked_auto_augment(settings: AugmentSettings) -> str | None:
    """The config string, where timm would read all of it.

    Raises:
        ValueError: timm would assert, or pass over a part.
    """
    text = settings.auto_augment
    if text is None:
        return None
    if settings.randaugment:
        raise ValueError(f"auto_augment={text!r} with randaugment={settings.randaugment!r}: choose one of the two")
    if not (_AUTO_AUGMENT.fullmatch(text) or _AUGMIX.fullmatch(text)):
        raise ValueError(
            f"auto_augment={text!r} is unknown: it is v0, v0r, original, originalr or 3a (AutoAugment; each also with "
            "-mstd0.5), or augmix with m (magnitude), w (chains), d (their depth), a (alpha), b (0|1: blended), mstd: "
            "augmix-m5-w4-d2"
        )
    return text


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
