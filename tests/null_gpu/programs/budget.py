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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.null_gpu.recording import Record, recording
from vitaos import cli
from vitaos.assembly import builders, training
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.batch import Batch
from vitaos.config import TrainConfig
from vitaos.data.augment import gpu_kernels
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
)
_CLASSES: Final = 1000
_WARM_UP: Final = 3
_TIMED: Final = 7
_NAMES_OF_FREE: Final = (
    "view _unsafe_view t transpose permute expand select slice unsqueeze squeeze as_strided detach alias unbind split "
    "split_with_sizes reshape _reshape_alias empty empty_like empty_strided new_empty new_empty_strided lift_fresh "
    "is_same_size _local_scalar_dense set_ unfold diagonal view_as_real"
)
_FREE: Final = frozenset(_NAMES_OF_FREE.split())


class ByteCount(TorchDispatchMode):
    """Counts the bytes of CUDA tensors that each operation reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __enter__(self) -> Any:
        self._launch, gpu_kernels.launch = gpu_kernels.launch, self._counted_launch
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        gpu_kernels.launch = self._launch
        super().__exit__(*error)

    def _counted_launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        self._launch(kernel, grid, *arguments, **constants)
        self.of[str(kernel)] += sum(_size(one) for one in arguments if isinstance(one, Tensor))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in _FREE:
            read = _on_device((args, kwargs or {}))
            known = {id(tensor) for tensor in read}
            written = [tensor for tensor in _on_device(result) if id(tensor) not in known]
            self.of[name] += sum(map(_size, read)) + sum(map(_size, written))
            if name.endswith("_") and name not in {"copy_", "zero_", "fill_"}:
                self.of[name] += sum(map(_size, args[0] if isinstance(args[0], list | tuple) else read[:1]))
        return result


def _on_device(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_cuda]


def _size(tensor: Tensor) -> int:
    whole = tensor.numel() * tensor.element_size()
    return min(whole, tensor.untyped_storage().nbytes()) if 0 in tensor.stride() else whole


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
    trainer = training.build_trainer(config, model, loader, world, num_classes=_CLASSES, evaluate=lambda _: {})
    builders.plan_ahead(loader, trainer.transform, world.device)
    return trainer


def phases(trainer: Trainer, batch: Batch) -> Iterator[tuple[str, Any]]:
    """Name and call of each part of a step, in order."""
    on_device = batch.on(trainer.world.device)
    made: dict[str, Tensor] = {}

    def augment() -> None:
        made["images"], made["targets"] = trainer.transform(on_device, epoch=0, step=trainer.progress.step)

    def forward() -> None:
        with trainer.precision.autocast():
            logits = trainer.network(made["images"])
        made["loss"] = trainer.loss(logits, made["targets"])

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
    if not trainer.settings.compile:
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
