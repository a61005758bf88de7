"""From the sections of a checked configuration to the objects of a run; here, and nowhere deeper, both are known.

Each builder takes a configuration and unpacks it into plain keywords: config stops at this border.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vitaos import data as datasets
from vitaos import techniques
from vitaos.assembly.narrowing import narrow_residual_stream
from vitaos.config import DataConfig, RecipeConfig, TrainConfig, enabled_techniques
from vitaos.data import DataSource, EvalLoader, Loaders, ReadSettings
from vitaos.data.augment.pipeline import DeviceAugment, EvalNormalize, MixOnly
from vitaos.data.augment.settings import AugmentSettings, MixSettings
from vitaos.data.classes import read_classes
from vitaos.data.corruptions import Corruption
from vitaos.data.crops import CropSettings
from vitaos.data.sizes import TransformBySize
from vitaos.engine import optim
from vitaos.engine import schedule as schedules
from vitaos.engine.drop_path import spread_drop_path
from vitaos.engine.ema import ModelEma
from vitaos.engine.evaluator import evaluate
from vitaos.engine.precision import build_precision
from vitaos.engine.protocols import Evaluate, Schedule, TrainTransform
from vitaos.engine.settings import Settings
from vitaos.engine.timm_schedule import Decay
from vitaos.models import any_size_keywords, create_model, regularization_keywords
from vitaos.runtime.world import World


def build_loaders(config: TrainConfig, world: World) -> Loaders:
    """The training and evaluation loaders of this rank."""
    data, recipe = config.data, config.recipe
    return datasets.build_loaders(
        _data_source(data),
        _read_settings(data, data.img_size, world),
        batch_size=config.batch_size,
        eval_batch_size=data.eval_batch_size or config.batch_size,
        eval_resize=int(data.img_size / recipe.eval_crop),
        accumulate=config.accumulate,
        rank=world.rank,
        world=world.size,
        seed=config.seed,
        repeats=recipe.repeats,
        crop=CropSettings(_pair(recipe.crop_scale), _pair(recipe.crop_ratio)),
        timm=build_augment_settings(config) if config.augment == "timm" else None,
        sizes=recipe.img_size_schedule,
        expected_classes=data.num_classes,
    )


def build_eval_loader(
    data: DataConfig,
    *,
    world: World,
    img_size: int,
    eval_crop: float,
    batch_size: int,
    root: str | Path | None = None,
    part: Literal["train", "val"] = "val",
    corruption: Corruption | None = None,
) -> EvalLoader:
    """The evaluation loader of this rank, for images of `img_size` pixels; `root` may stand for the data's own."""
    source = _data_source(data)
    return datasets.build_eval_loader(
        source if root is None else dataclasses.replace(source, root=root),
        _read_settings(data, img_size, world),
        batch_size=batch_size,
        eval_resize=int(img_size / eval_crop),
        rank=world.rank,
        world=world.size,
        part=part,
        corruption=corruption,
    )


def build_model(
    config: Any, num_classes: int, *, img_size: int | None = None, recipe: RecipeConfig | None = None
) -> nn.Module:
    """The model with its techniques; `recipe` brings its dropout and drop path, None leaves them out (evaluation).

    Weights depend on the seed alone, not on what was drawn before.

    Raises:
        ValueError: unknown name or keyword, a technique where it is not defined, or another number of color channels.
    """
    if config.model.keywords.get("in_chans", 3) != 3:
        raise ValueError(f"model.keywords.in_chans={config.model.keywords['in_chans']}: images have 3 channels here")
    regularization = (
        {}
        if recipe is None
        else regularization_keywords(drop_path=recipe.drop_path, pos_drop=recipe.pos_drop, proj_drop=recipe.proj_drop)
    )
    any_size = any_size_keywords(config.model.name) if recipe is not None and recipe.img_size_schedule else {}
    torch.manual_seed(getattr(config, "seed", 0))
    model = create_model(
        config.model.name,
        num_classes=num_classes,
        img_size=img_size or config.data.img_size,
        depth=config.depth,
        skip_gain=config.skip_gain,
        **regularization | any_size | config.model.keywords,
        **enabled_techniques(config),
    )
    if recipe is not None:
        spread_drop_path(
            model,
            recipe.drop_path,
            spread=recipe.drop_path_spread,
            reference_depth=recipe.drop_path_reference_depth,
        )
        if config.residual_stream == "bf16":
            narrow_residual_stream(model)
    return model


def build_augment_settings(config: TrainConfig) -> AugmentSettings:
    """What happens to a training image after its crop, by either engine."""
    recipe = config.recipe
    return AugmentSettings(
        hflip=recipe.hflip,
        randaugment=recipe.randaugment,
        color_jitter=recipe.color_jitter,
        three_augment=recipe.three_augment,
        auto_augment=recipe.auto_augment,
        views=recipe.jsd_views if recipe.loss == "jsd" else 1,
        erasing=recipe.erasing,
        erasing_mode=recipe.erasing_mode,
        erasing_count=recipe.erasing_count,
        mean=_triple(config.data.mean),
        std=_triple(config.data.std),
    )


def build_train_transform(config: TrainConfig, num_classes: int) -> TrainTransform:
    """What happens to a training batch on the device."""
    recipe = config.recipe
    mix = MixSettings(
        recipe.mixup,
        recipe.cutmix,
        recipe.mix_probability,
        recipe.mix_switch,
        recipe.mix_mode,
        recipe.mask_mix,
        recipe.mask_mix_patch,
        recipe.mask_mix_ratio,
        tell_cells=recipe.mix_labels != "area",
    )
    if config.augment == "timm":
        return MixOnly(mix, num_classes=num_classes, seed=config.seed, channels_last=config.channels_last)
    sizes = {size for _, size in recipe.img_size_schedule} or {config.data.img_size}
    by_size = {
        size: DeviceAugment(
            build_augment_settings(config),
            mix,
            img_size=size,
            num_classes=num_classes,
            seed=config.seed,
            channels_last=config.channels_last,
        )
        for size in sizes
    }
    return TransformBySize(by_size) if len(by_size) > 1 else by_size[config.data.img_size]


def plan_ahead(loader: datasets.TrainLoader, transform: object, device: torch.device) -> None:
    """Let a GPU's augmentation of a batch be planned from the moment that the loader begins with the batch."""
    if isinstance(transform, DeviceAugment) and transform.has_kernels(device):
        loader.announce = transform.announce


def build_normalize(data: DataConfig) -> EvalNormalize:
    """What happens to an evaluation batch on the device."""
    return EvalNormalize(_triple(data.mean), _triple(data.std))


def build_optimizer(config: TrainConfig, model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimizer of the recipe, at the schedule's first rate."""
    chosen = config.optimizer
    return optim.build_optimizer(
        model,
        name=chosen.name,
        lr=schedule(0),
        weight_decay=config.recipe.weight_decay,
        betas=chosen.betas,
        eps=chosen.eps,
        fused=chosen.fused,
        layer_decay=config.recipe.layer_decay,
        paces=techniques.paces(model),
        lr_scale=config.recipe.lr_scale,
        **chosen.keywords,
    )


def build_schedule(config: TrainConfig, steps_per_epoch: int, world_size: int) -> Schedule:
    """The learning rates of the recipe under the linear rule (rate x global batch / reference batch)."""
    recipe = config.recipe
    global_batch = config.batch_size * config.accumulate * world_size

    def scaled(rate: float, applies: bool = True) -> float:
        if not applies or recipe.lr_reference_batch is None:
            return rate
        return optim.scaled_lr(rate, global_batch, recipe.lr_reference_batch)

    return schedules.build_schedule(
        recipe.schedule,
        lr=scaled(recipe.lr),
        warmup_lr=scaled(recipe.warmup_lr, recipe.scale_warmup_and_floor),
        floor=scaled(recipe.min_lr, recipe.scale_warmup_and_floor),
        epochs=config.epochs,
        warmup_epochs=recipe.warmup_epochs,
        steps_per_epoch=steps_per_epoch,
        unit=recipe.schedule_unit,
        decay=Decay(recipe.decay_epochs, tuple(recipe.decay_milestones), recipe.decay_rate),
    )


def build_ema(config: TrainConfig, model: nn.Module) -> ModelEma | None:
    """The running average of the weights, where the recipe has one."""
    if config.recipe.ema_decay is None:
        return None
    return ModelEma(model, decay=config.recipe.ema_decay, warmup=config.recipe.ema_warmup)


def build_evaluate_fn(config: TrainConfig, loaders: Loaders, world: World, interrupted: Callable[[], bool]) -> Evaluate:
    """A function that evaluates models on the held-out images, on all ranks together, unless `interrupted`.

    It also holds the training images that no rank could decode so far against their limit.
    """
    normalize, precision = build_normalize(config.data), build_precision(config.precision, world.device)

    def evaluate_models(models: Sequence[nn.Module]) -> list[dict[str, float]]:
        loaders.train.bad.check_over_ranks(world.gather_objects)
        results = evaluate(
            models,
            loaders.val,
            normalize,
            world=world,
            precision=precision,
            num_classes=loaders.num_classes,
            interrupted=interrupted,
        )
        return [result.metrics() for result in results]

    return evaluate_models


def build_settings(config: TrainConfig) -> Settings:
    """The trainer's settings."""
    names = {field.name for field in dataclasses.fields(Settings)} - {"clip", "static_shapes"}
    several_sizes = len({size for _, size in config.recipe.img_size_schedule}) > 1
    return Settings(
        clip=config.recipe.clip, static_shapes=several_sizes, **{name: getattr(config, name) for name in names}
    )


def _data_source(data: DataConfig) -> DataSource:
    return DataSource(
        kind=data.kind,  # type: ignore[arg-type]  # its choices are checked by the schema
        root=data.root,
        train=data.train,
        val=data.val,
        loader=data.loader,  # type: ignore[arg-type]
        prepare=data.prepare,
        classes=None if data.classes is None else tuple(read_classes(data.classes)),
    )


def _read_settings(data: DataConfig, img_size: int, world: World) -> ReadSettings:
    return ReadSettings(
        img_size=img_size,
        resize=data.resize,  # type: ignore[arg-type]
        workers=data.workers,
        in_memory=data.in_memory,
        pin_memory=world.device.type == "cuda",
        own_process=data.decode_in == "process" or (data.decode_in == "auto" and world.device.type == "cuda"),
        on_bad=data.on_bad,  # type: ignore[arg-type]
        once=world.once_a_node,
    )


def _pair(values: list[float]) -> tuple[float, float]:
    """Configuration files give lists; settings are compared and passed on as tuples."""
    first, second = values
    return first, second


def _triple(values: list[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
