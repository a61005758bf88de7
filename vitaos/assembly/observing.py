"""What an epoch's line holds of the model itself: the monitor, bound to held-out images and to a schedule of epochs."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from vitaos.analysis.monitor import MEASURES, Monitor, learned_means
from vitaos.assembly.builders import build_model, build_normalize
from vitaos.assembly.initial_weights import load_initial_weights
from vitaos.config import TrainConfig
from vitaos.data import Loaders
from vitaos.engine.precision import build_precision
from vitaos.engine.protocols import Observe
from vitaos.runtime.world import World


def build_observe_fn(config: TrainConfig, loaders: Loaders, world: World) -> Observe:
    """What an epoch's line holds besides losses and accuracies: learned scales, and oversmoothing every `monitor.every`
    epochs and at the last one, always on the same held-out images; on the main rank alone.

    The line of the first epoch also holds the measures of the untrained model (``initial_...``). Its weights follow
    from the configuration, so it is built again: a run resumed within its first epoch records what an uninterrupted
    one does.
    """
    monitor, normalize, every = Monitor(), build_normalize(config.data), config.monitor.every
    precision = build_precision(config.precision, world.device)
    count = _monitored_images(config, loaders.train.images_per_epoch // world.size)

    @functools.cache
    def held_out() -> Tensor:
        return torch.cat([batch.images for batch in loaders.val.evenly_spaced(count)]).to(world.device)

    def look(model: nn.Module) -> dict[str, Any]:
        with precision.autocast():
            return dict(monitor(model, normalize(held_out())))

    def look_at_start() -> dict[str, Any]:
        model = build_model(config, loaders.num_classes, recipe=config.recipe).to(world.device)
        load_initial_weights(config, model)
        return {f"initial_{key}": value for key, value in look(model).items() if key.startswith(MEASURES)}

    def observe(model: nn.Module, epoch: int, is_last: bool) -> dict[str, Any]:
        if not world.is_main:
            return {}
        line = look_at_start() if every and epoch == 0 else {}
        if not every or ((epoch + 1) % every and not is_last):
            return line | learned_means(model)
        return line | look(model)

    return observe


def _monitored_images(config: TrainConfig, images_per_epoch: int) -> int:
    """Those asked for; else 64, or fewer where a forward pass of them (a third of a training step) would take more than
    a hundredth of an epoch, in which this process trains `images_per_epoch` images."""
    if config.monitor.images is not None:
        return config.monitor.images
    return max(1, min(64, 3 * images_per_epoch // 100))
