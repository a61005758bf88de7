"""What a training step asks of a GPU: launches, bytes that eager kernels move, host time, waits, peak memory.

    python -m tests.null_gpu.launch -m tests.null_gpu.programs.budget model=deit_s12 attnscale=true batch_size=64

Words are those of ``train.py`` (the data are random images). Bytes: every kernel reads its inputs and writes its
outputs once; Of Triton's kernels those of the augmentation are in that count. Prints one JSON object.
"""

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from tests.null_gpu.programs.traffic import Traffic
from tests.null_gpu.recording import Record, recording
from vitaos import cli
from vitaos.assembly import builders, training
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.batch import Batch
from vitaos.config import TrainConfig
from vitaos.data.batches import Announce
from vitaos.engine.trainer import Trainer
from vitaos.runtime.world import initialize

_RECIPE: Final = (
    "data=digits",
    "data.img_size=224",
    "recipe=deit_12",
    "precision=bf16",
    "device=cuda",
    "data.workers=1",
    "compile=false",
)
_CLASSES: Final = 1000
_WARM_UP: Final = 3
_TIMED: Final = 7


class ByteCount(Traffic):
    """Counts bytes by what moved them."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def add(self, name: str, nbytes: int) -> None:
        self.of[name] += nbytes


class _RandomImages:
    """A loader of pinned batches, without data."""

    steps_per_epoch = 1000

    def __init__(self, config: TrainConfig) -> None:
        self.size, self.side = config.batch_size, config.data.img_size
        self.announce: Announce | None = None

    @property
    def images_per_epoch(self) -> int:
        return self.steps_per_epoch * self.size

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Micro-batches from a step on."""
        generator = torch.Generator().manual_seed(epoch)
        for step in range(start_step, self.steps_per_epoch):
            positions = torch.arange(self.size) + step * self.size
            if self.announce is not None:
                self.announce(epoch, positions.numpy())
            images = torch.randint(0, 256, (self.size, 3, self.side, self.side), dtype=torch.uint8, generator=generator)
            targets = torch.randint(0, _CLASSES, (self.size,), generator=generator)
            yield Batch(images.pin_memory(), targets.pin_memory(), positions)


def build_trainer(words: list[str]) -> Trainer:
    """The trainer that train.py would build for these words, over random images."""
    with tempfile.TemporaryDirectory() as root:
        config = cli.compose([*_RECIPE, f"data.root={root}", *words], config_name="train", schema=TRAIN_SCHEMA)
    world = initialize(config.device)
    model = builders.build_model(config, _CLASSES, recipe=config.recipe).to(world.device)
    loader: Any = _RandomImages(config)
    trainer = training.build_trainer(
        config, model, loader, world, num_classes=_CLASSES, evaluate=lambda judged: [{}] * len(judged)
    )
    builders.plan_ahead(loader, trainer.transform, world.device)
    return trainer


def phases(trainer: Trainer, batch: Batch) -> Iterator[tuple[str, Any]]:
    """Name and call of each part of a step, in order."""
    on_device = batch.on(trainer.world.device)
    made: dict[str, Tensor] = {}

    def augment() -> None:
        made["images"], made["targets"] = trainer.transform(on_device, epoch=0, step=trainer.progress.step)

    def forward() -> None:
        with trainer.pass_of_step(trainer.progress.step) as terms:  # what techniques add to the loss is part of it
            with trainer.precision.autocast():
                logits = trainer.network(made["images"])
            made["loss"] = sum(terms.values(), trainer.loss(logits, made["targets"]))

    def backward() -> None:
        made["loss"].backward(trainer.update.loss_gradient(made["loss"], 1.0))

    def update() -> None:
        trainer.update.apply(trainer.model, trainer.progress.step, 1e-3)
        trainer.update.zero_grad()

    yield from {"augmentation": augment, "forward": forward, "backward": backward, "update": update}.items()


def measure(trainer: Trainer) -> dict[str, Any]:
    """Launches, bytes an image and host milliseconds of every part of a step."""
    batches = trainer.loader.epoch(0)
    trainer.network.train()
    for _ in range(_WARM_UP):
        trainer._train_step(batches)
        trainer.progress.step += 1
    found: dict[str, Any] = {"launches": {}, "megabytes_an_image": {}}
    events: Record = Record()
    times: dict[str, list[float]] = {}
    for _ in range(_TIMED):
        for name, call in phases(trainer, next(batches)):
            start = time.thread_time()
            call()
            times.setdefault(name, []).append(1000 * (time.thread_time() - start))
    found["host_ms"] = {name: round(statistics.median(of_name), 1) for name, of_name in times.items()}
    for name, call in phases(trainer, next(batches)):
        with recording() as record:
            call()
        found["launches"][name] = sum(record.kernels.values())
        events.events.update(record.events)
    if trainer.compilation.mode is None:
        for name, call in phases(trainer, next(batches)):
            with ByteCount() as count:
                call()
            found["megabytes_an_image"][name] = round(sum(count.of.values()) / trainer.settings.batch_size / 1e6, 1)
    found["launches"]["step"] = sum(found["launches"].values())
    found["waits and pageable copies"] = events.lines()
    found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(build_trainer(sys.argv[1:]))))
