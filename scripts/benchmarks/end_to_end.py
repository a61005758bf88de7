"""A training run's rate beside those of its loader and of its steps: ``benchmark.py end_to_end``."""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from torch import nn

from scripts.benchmarks.contention import OPERATIONS, Contention, measure_contention
from scripts.benchmarks.hardware import describe
from scripts.benchmarks.sleeping_loader import measure_sleeping
from vitaos.assembly import builders
from vitaos.assembly.teacher import build_teacher
from vitaos.assembly.training import build_trainer
from vitaos.batch import Batch
from vitaos.data import default_workers
from vitaos.data.ffcv.loader import FfcvTrainLoader
from vitaos.engine.distillation import Teacher
from vitaos.engine.protocols import TrainLoader
from vitaos.runtime.world import World, initialize, shutdown

ROUNDS: Final = 3
WARMUP: Final = 3  # steps before the clock starts
CONTENTION_SECONDS: Final = 3.0
SLEEP_MS: Final = 0.6  # about what a core takes to decode a photograph and cut out a crop
SLEEPING_BATCH: Final = 256
SLEEPING_SIZE: Final = 64  # pixels
SHORTEST: Final = 4 * WARMUP  # steps of a measurement: several readings after the first


class SameBatch:
    """A loader that has nothing to load."""

    def __init__(self, loader: TrainLoader, batch: Batch) -> None:
        self.steps_per_epoch, self.images_per_epoch = loader.steps_per_epoch, loader.images_per_epoch
        self._batch = batch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The same batch for ever."""
        return itertools.repeat(self._batch)


class Rates:
    """A sink that keeps the rate between the first and the last reading."""

    def __init__(self, global_batch: int) -> None:
        self._global_batch = global_batch
        self._readings: list[tuple[int, float]] = []

    def log(self, record: Mapping[str, Any]) -> None:
        self._readings.append((record["step"], time.perf_counter()))

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of the run's end; its rate counts the start as well."""

    def rewind(self, step: int) -> None:
        """Nothing is kept from before."""

    def images_per_s(self) -> float:
        (first, begin), (last, end) = self._readings[0], self._readings[-1]
        return (last - first) * self._global_batch / (end - begin)


def main(config: Any) -> None:
    """Measure and print."""
    steps = 60 if config.steps is None else config.steps
    if steps < SHORTEST:
        raise ValueError(f"steps={steps} is too short to measure: it must be at least {SHORTEST}")
    world = initialize(config.device)
    with closing(builders.build_loaders(config, world)) as loaders:
        if loaders.train.steps_per_epoch < SHORTEST:
            raise ValueError(
                f"an epoch of {loaders.train.steps_per_epoch} steps is too short to measure; lower batch_size"
            )
        steps = min(steps, loaders.train.steps_per_epoch)
        model = builders.build_model(config, loaders.num_classes, recipe=config.recipe).to(world.device)
        same = SameBatch(loaders.train, next(iter(loaders.train.epoch(0))))
        teacher = build_teacher(config, world, loaders.num_classes, loaders.class_names)
        shared: dict[str, Any] = {
            "world": world,
            "model": model,
            "num_classes": loaders.num_classes,
            "teacher": teacher,
        }
        rates: dict[str, list[float]] = {"loader alone": [], "steps alone": [], "whole": []}
        for _ in range(ROUNDS):
            rates["loader alone"].append(_loader_rate(loaders.train, steps, config, world))
            rates["steps alone"].append(_run_rate(same, steps, config, **shared))
            rates["whole"].append(_run_rate(loaders.train, steps, config, **shared))
        contention = _contention(loaders.train, config)
    if world.is_main:
        _print_rates(rates, config, world)
        for beside, found in contention.items():
            print(
                f"training thread beside {beside}: x{found.factor:.2f} ({OPERATIONS} small operations, "
                f"{found.alone_ms:.2f} ms alone, {found.waits_beside:.1f} waits; {found.images_per_s:,.0f} images/s)"
            )
    shutdown()


def _contention(loader: TrainLoader, config: Any) -> dict[str, Contention]:
    """How much the run's loader slows the thread that launches operations: as it is, which also shows cores that lack,
    and, of FFCV files, with a sleep in place of decoding, which shows the interpreter's lock alone.
    """
    found = {"this loader": measure_contention(loader, seconds=CONTENTION_SECONDS)}
    if isinstance(loader, FfcvTrainLoader):
        loader.close()
        workers = default_workers() if config.data.workers is None else config.data.workers
        found[f"{max(1, workers)} threads that sleep {SLEEP_MS} ms for decoding"] = measure_sleeping(
            loader.path, workers, decode_ms=SLEEP_MS, img_size=SLEEPING_SIZE,
            batch_size=min(SLEEPING_BATCH, loader.images_per_epoch), seconds=CONTENTION_SECONDS,
            own_process=loader.own_process,
        )  # fmt: skip
    return found


def _loader_rate(loader: TrainLoader, steps: int, config: Any, world: World) -> float:
    """Images per second of all ranks, of loading alone."""
    begin, parts = 0.0, config.accumulate
    for number, _ in enumerate(itertools.islice(loader.epoch(0), steps * parts)):
        if number == WARMUP * parts - 1:
            begin = time.perf_counter()
    images = (steps - WARMUP) * parts * config.batch_size * world.size
    return images / (time.perf_counter() - begin)


def _run_rate(
    loader: TrainLoader,
    steps: int,
    config: Any,
    *,
    world: World,
    model: nn.Module,
    num_classes: int,
    teacher: Teacher | None,
) -> float:
    """Images per second of all ranks, of a training run without evaluation."""
    rates = Rates(config.batch_size * config.accumulate * world.size)
    build_trainer(
        config,
        model,
        loader,
        world,
        num_classes=num_classes,
        teacher=teacher,
        evaluate=lambda judged: [{}] * len(judged),
        sinks=[rates],
        settings=replace(builders.build_settings(config), steps=steps, log_every=WARMUP, checkpoint_every=None),
    ).fit()
    # Other ranks have no sink; the main rank's rate is everyone's, since they wait for each other in each step.
    return rates.images_per_s() if world.is_main else 0.0


def _print_rates(rates: dict[str, list[float]], config: Any, world: World) -> None:
    medians = {name: statistics.median(found) for name, found in rates.items()}
    hardware = describe(world.device)
    print(
        f"{config.model.name} on {config.data.name}, batch {config.batch_size} x {config.accumulate} x {world.size}, "
        f"{config.precision}; {hardware['device']}, {hardware['threads']} threads, torch {hardware['torch']}"
    )
    for name, median in medians.items():
        print(f"{name:>13}: {median:10.1f} images/s")
    slower = min(medians["loader alone"], medians["steps alone"])
    print(f"whole / slower part: {100 * medians['whole'] / slower:.1f}%")
