"""A training run on the null GPU in miniature: the commands' own builders, small images, every part the real one."""

import atexit
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from vitaos import cli
from vitaos.assembly import builders, observing
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.assembly.training import build_trainer
from vitaos.batch import Batch
from vitaos.config import TrainConfig
from vitaos.data import Loaders
from vitaos.engine.trainer import Trainer
from vitaos.runtime.world import World, initialize

FAMILIES: Final = {  # two blocks or two stages of each family, with the full recipe of its own
    "deit": ("model=deit_ti12", "depth=2", "data.img_size=32", "+model.keywords.patch_size=8"),
    "cait": (
        *("model=cait_xxs24", "data.img_size=32"),
        *("+model.keywords.patch_size=8", "depth=2", "+model.keywords.depth_token_only=1"),
    ),
    "swin": (
        *("model=swin_t", "data.img_size=32"),
        *("+model.keywords.depths=[2,2]", "+model.keywords.num_heads=[3,6]", "+model.keywords.window_size=4"),
    ),
}
RECIPES: Final = {"deit": "deit_12", "cait": "cait_finetune", "swin": "swin"}


def overrides_of(family: str, root: str, *overrides: str) -> list[str]:
    """The command line of a small run of a family on digits, augmented as on ImageNet."""
    common = ["data=digits", f"data.root={root}", "batch_size=8", "data.workers=1", "device=cuda", "log_every=2"]
    return [*common, *FAMILIES[family], f"recipe={RECIPES[family]}", "precision=bf16", *overrides]


@dataclass
class Run:
    """The objects of a run, made as train.py makes them."""

    config: TrainConfig
    loaders: Loaders
    world: World
    trainer: Trainer

    def batches(self, step: int = 0) -> Iterator[Batch]:
        """The loader's micro-batches from a global step on."""
        return self.loaders.train.epoch(0, step)


def build_run(overrides: list[str], *, world: World | None = None, **others: Any) -> Run:
    """What train.py does between reading its configuration and the first step, without a run folder."""
    # Dozens of runs of a few steps in one process: a process for the batches of each would take longer than they do.
    # Their launches are counted, and values steer them: eager unless a program asks for compiled code.
    overrides = ["data.decode_in=threads", "compile=false", *overrides]
    config = cli.compose(overrides, config_name="train", schema=TRAIN_SCHEMA)
    world = world or initialize(config.device)
    loaders = builders.build_loaders(config, world)
    atexit.register(loaders.close)
    model = builders.build_model(config, loaders.num_classes, recipe=config.recipe).to(world.device)
    return Run(config, loaders, world, trainer_of(config, loaders, world, model, **others))


def trainer_of(config: TrainConfig, loaders: Loaders, world: World, model: nn.Module, **others: Any) -> Trainer:
    """The trainer of a configuration, made as train.py makes it."""
    return build_trainer(
        config,
        model,
        loaders.train,
        world,
        num_classes=loaders.num_classes,
        evaluate=builders.build_evaluate_fn(config, loaders, world, lambda: False),
        observe=observing.build_observe_fn(config, loaders, world),
        **others,
    )


def data_root() -> str:
    """A folder for the digits, removed at the end of the process unless the test gave one."""
    if root := os.environ.get("NULL_GPU_DATA"):
        return root
    folder = tempfile.TemporaryDirectory(prefix="null-gpu-digits-")
    atexit.register(folder.cleanup)
    return folder.name


def misplaced(trainer: Trainer) -> list[str]:
    """Tensors of the training state that are not on the device of the run."""
    device = trainer.world.device
    found = [name for name, tensor in trainer.model.state_dict().items() if tensor.device != device]
    for state in trainer.update.optimizer.state.values():
        found += [f"optimizer {key}" for key, one in state.items() if torch.is_tensor(one) and one.device != device]
    if trainer.ema is not None:
        found += [f"ema {name}" for name, one in trainer.ema.module.state_dict().items() if one.device != device]
    return found
