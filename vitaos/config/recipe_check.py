"""Pairs of keys of a recipe that cannot be together."""

from itertools import pairwise

from vitaos.config.commands import TrainConfig
from vitaos.config.keys import ConfigError


def check_recipe(config: TrainConfig) -> None:
    """Refuse a recipe of which one key makes another impossible.

    Raises:
        ConfigError: naming the keys and what would be right.
    """
    milestones = config.recipe.decay_milestones
    if milestones != sorted(set(milestones)):
        raise ConfigError(f"recipe.decay_milestones={milestones}: epochs in rising order")
    _check_distillation(config)
    _check_views(config)
    _check_sizes(config)
    _check_patches(config)
    _check_mix_labels(config)


def _check_distillation(config: TrainConfig) -> None:
    kind, teacher = config.recipe.distillation, config.teacher
    if kind != "none" and not teacher.source:
        raise ConfigError(
            f"recipe.distillation={kind} without a teacher: add teacher.source=FILE, a run or exported folder, "
            "hf-hub:OWNER/NAME, or a name of timm's weights (regnety_160.deit_in1k)"
        )
    if kind == "none" and (teacher.source or teacher.model):
        raise ConfigError(
            f"teacher.source={teacher.source}: nothing is learned from it; add recipe.distillation=hard or soft"
        )


def _check_views(config: TrainConfig) -> None:
    """AutoAugment, AugMix and its loss are timm's: they work on PIL images."""
    recipe = config.recipe
    if recipe.auto_augment and (config.augment != "timm" or recipe.randaugment):
        raise ConfigError(
            f"recipe.auto_augment={recipe.auto_augment}: it needs augment=timm (class folders) and "
            "recipe.randaugment=null"
        )
    mixed = recipe.mixup or recipe.cutmix or recipe.mask_mix
    if recipe.loss == "jsd" and (config.augment != "timm" or mixed or recipe.erasing):
        raise ConfigError(
            "recipe.loss=jsd compares views of one image whose first is clean: it needs augment=timm, "
            "recipe.auto_augment=augmix-m3, recipe.mixup=0, recipe.cutmix=0, recipe.mask_mix=0 and recipe.erasing=0"
        )
    if recipe.loss == "jsd" and not (recipe.auto_augment or recipe.randaugment):
        raise ConfigError("recipe.loss=jsd without recipe.auto_augment=augmix-m3: all views would be alike")
    if recipe.loss == "jsd" and recipe.distillation != "none":
        raise ConfigError("recipe.loss=jsd with recipe.distillation: a teacher has no part in it; choose one")


def _check_patches(config: TrainConfig) -> None:
    recipe = config.recipe
    sizes = {config.data.img_size, *(pair[-1] for pair in recipe.img_size_schedule)}
    odd = sorted(size for size in sizes if size % recipe.mask_mix_patch)
    if recipe.mask_mix and odd:
        raise ConfigError(
            f"recipe.mask_mix_patch={recipe.mask_mix_patch}: patches of that side do not fill images of {odd[0]} "
            "pixels; choose a divisor, and a multiple of the model's patch (MixPro: 56 at 224)"
        )


def _check_mix_labels(config: TrainConfig) -> None:
    recipe = config.recipe
    if recipe.mix_labels == "area":
        return
    named = f"recipe.mix_labels={recipe.mix_labels}"
    if not (recipe.mask_mix or (recipe.cutmix and recipe.mix_probability)):
        raise ConfigError(
            f"{named}: nothing is mixed by regions of the image; add recipe.mask_mix=0.5 or recipe.cutmix=1"
        )
    if recipe.loss == "bce" and recipe.bce_threshold is not None:
        raise ConfigError(
            f"{named} with recipe.bce_threshold={recipe.bce_threshold}: the threshold makes every weight 0 or 1; "
            "set it to null, or recipe.mix_labels=area"
        )


def _check_sizes(config: TrainConfig) -> None:
    sizes = config.recipe.img_size_schedule
    if not sizes:
        return
    pairs = all(len(pair) == 2 and 1 <= pair[1] <= 2**14 for pair in sizes)
    if not pairs or sizes[0][0] != 0 or any(before[0] >= later[0] for before, later in pairwise(sizes)):
        raise ConfigError(
            f"recipe.img_size_schedule={sizes}: pairs of first epoch and pixels are expected, epochs rising from 0, as "
            "[[0,128],[100,160],[200,224]]"
        )
    if sizes[-1][1] != config.data.img_size:
        raise ConfigError(
            f"recipe.img_size_schedule={sizes} ends at {sizes[-1][1]} pixels: it must end at "
            f"data.img_size={config.data.img_size}, which the model is built for and evaluated at"
        )
