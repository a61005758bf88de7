"""The transforms from flat keywords, so that a test names only what it changes."""

import dataclasses
from typing import Any

from vitaos.data.augment.pipeline import DeviceAugment, MixOnly
from vitaos.data.augment.settings import AugmentSettings, MixSettings


def split(keywords: dict[str, Any]) -> tuple[AugmentSettings, MixSettings, dict[str, Any]]:
    """Settings of images, settings of mixing, and what belongs to neither."""
    rest = dict(keywords)
    image, mix = (
        kind(**{field.name: rest.pop(field.name) for field in dataclasses.fields(kind) if field.name in rest})
        for kind in (AugmentSettings, MixSettings)
    )
    return image, mix, rest


def device_augment(**keywords: Any) -> DeviceAugment:
    image, mix, rest = split(keywords)
    return DeviceAugment(image, mix, **rest)


def mix_only(**keywords: Any) -> MixOnly:
    _, mix, rest = split(keywords)
    return MixOnly(mix, **rest)
