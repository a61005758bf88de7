"""The augmentation of a recipe as plain values; the defaults are those of the DeiT recipe (arXiv 2012.12877)."""

from dataclasses import dataclass
from typing import Final

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class AugmentSettings:
    """What happens to an image by itself after its crop.

    Attributes:
        hflip: chance of a horizontal flip.
        randaugment: timm's config string, or None.
        color_jitter: strength, or (brightness, contrast, saturation); as in timm without effect while RandAugment is
            on, unless its set is one of timm's "3a" sets.
        three_augment: DeiT III's choice of grayscale, solarize or blur, before the color jitter (0.3 there).
        auto_augment: timm's config string of AutoAugment or AugMix, for timm's transforms alone, or None.
        views: of each image in a batch, for timm's transforms alone: the first without `auto_augment` (or RandAugment).
        erasing, erasing_mode, erasing_count: chance, filling ("pixel", "rand", "const") and most rectangles an image.
        mean, std: of each channel, in 0..1; the mean is also what geometric operations fill with.
    """

    hflip: float = 0.5
    randaugment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float | tuple[float, ...] | None = 0.4
    three_augment: bool = False
    auto_augment: str | None = None
    views: int = 1
    erasing: float = 0.25
    erasing_mode: str = "pixel"
    erasing_count: int = 1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class MixSettings:
    """Mixup and CutMix of a batch.

    Attributes:
        mixup: alpha of mixup's Beta(alpha, alpha), 0 for no mixup.
        cutmix: alpha of CutMix's Beta(alpha, alpha), 0 for no CutMix.
        probability: chance that a step is mixed at all.
        switch: chance of CutMix where both are on.
        mode: who shares a draw: the images of a step ("batch"), the two of a pair ("pair"), none ("elem").
        mask: chance that a step is mixed by patches (MaskMix, Patch Mixing) in place of mixup and CutMix.
        mask_patch: side of those patches in pixels.
        mask_ratio: share of an image's own patches; 0 for a draw of Beta(1, 1) in every step.
        tell_cells: give targets that say where an image's own pixels are (:class:`vitaos.batch.MixedTargets`).
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5
    mode: str = "batch"
    mask: float = 0.0
    mask_patch: int = 56
    mask_ratio: float = 0.0
    tell_cells: bool = False


DEIT_AUGMENT: Final = AugmentSettings()
DEIT_MIX: Final = MixSettings()
