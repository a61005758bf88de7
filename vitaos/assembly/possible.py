"""Whether a run can be had: its optimizer, augmentation and model, before any data or device is touched."""

import dataclasses
from typing import Final

import torch
from torch import nn

from vitaos.assembly import builders
from vitaos.assembly.training import build_training_loss
from vitaos.config import TrainConfig
from vitaos.data.crops import CropSettings
from vitaos.data.folder.timm_transform import timm_transform
from vitaos.engine import optim
from vitaos.engine.distillation import choose_token
from vitaos.engine.freezing import freeze
from vitaos.outputs import trackers

_MOST_PARAMETERS: Final = 10**11
"""A hundred times the largest vision transformers: a slip of the finger rather than a wish."""
_SOME_STEPS: Final = 1000  # of an epoch, before the data are seen
_TIMM_SAYS_NO: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError)
"""How timm answers values that make no model."""


def check_possible(config: TrainConfig) -> None:
    """Refuse a model, an optimizer or an augmentation that cannot be had.

    Raises:
        ValueError: a tracker whose package is missing, an unknown name or keyword, a technique where it is not defined,
            values that do not go together.
    """
    trackers.check_installed(dataclasses.asdict(config.logger))
    chosen, classes = config.optimizer, config.data.num_classes or 2
    optim.check_optimizer(chosen.name, chosen.betas, eps=chosen.eps, fused=chosen.fused, **chosen.keywords)
    builders.build_train_transform(config, classes)
    builders.build_schedule(config, steps_per_epoch=_SOME_STEPS, world_size=1)
    if config.augment == "timm":
        timm_transform(builders.build_augment_settings(config), config.data.img_size, CropSettings())
    _check_model(config, classes)


def _check_model(config: TrainConfig, classes: int) -> None:
    """Build the model and let it look at one image on the meta device, where tensors have shapes and no values.

    Some models of timm need values to be built or run: what fails there is tried again on the CPU.
    """
    try:
        _try_model(config, classes, "meta")
    except (NotImplementedError, RuntimeError):
        _try_on_cpu(config, classes)
    except _TIMM_SAYS_NO as error:
        raise ValueError(_refusal(config, error)) from error


def _try_on_cpu(config: TrainConfig, classes: int) -> None:
    try:
        _try_model(config, classes, "cpu")
    except (*_TIMM_SAYS_NO, MemoryError, RuntimeError) as error:
        raise ValueError(_refusal(config, error)) from error


def _try_model(config: TrainConfig, classes: int, device: str) -> None:
    size = config.data.img_size
    with torch.device(device), torch.no_grad():
        model: nn.Module = builders.build_model(config, classes, recipe=config.recipe).eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if parameters > _MOST_PARAMETERS:
            raise ValueError(f"{_described(config)}: it would have {parameters:,} parameters")
        freeze(model, config.recipe.freeze)
        build_training_loss(config.recipe, model)
        optim.scales_by_pattern(model, config.recipe.lr_scale)
        if config.recipe.distillation != "none":
            choose_token(model, config.recipe.distillation_token)
        model(torch.empty(1, 3, size, size))
        _try_other_sizes(config, model)


def _try_other_sizes(config: TrainConfig, model: nn.Module) -> None:
    for size in sorted({size for _, size in config.recipe.img_size_schedule}):
        try:
            model(torch.empty(1, 3, size, size))
        except (*_TIMM_SAYS_NO, RuntimeError) as error:
            raise ValueError(
                f"recipe.img_size_schedule with {size} pixels: {config.model.name} does not take them "
                f"({str(error).partition(chr(10))[0]}). Of ViT, Swin and networks of convolutions timm interpolates "
                f"the positions, for multiples of the patch; others take images of {config.data.img_size} alone"
            ) from error


def _described(config: TrainConfig) -> str:
    keywords = "".join(f" model.keywords.{key}={value}" for key, value in config.model.keywords.items())
    depth = "" if config.depth is None else f" depth={config.depth}"
    return f"model={config.model.name}{depth}{keywords} with data.img_size={config.data.img_size}"


def _refusal(config: TrainConfig, error: Exception) -> str:
    kind = "" if isinstance(error, (AssertionError, RuntimeError)) else f"{type(error).__name__}: "
    reason = str(error).strip().partition("\n")[0] or "timm refuses these values"
    return f"{_described(config)} cannot be had: {kind}{reason}"
