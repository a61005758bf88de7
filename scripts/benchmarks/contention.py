"""How much a loader slows the thread that launches small operations, as a training thread does.

Both need Python's lock. The operations are on eight numbers: what they cost is the interpreter's work. Beside their
time stands how often their thread waited (its voluntary context switches): that is for the lock, and shows it on a
machine that is busy with other things as well.
"""

import resource
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch

from vitaos.batch import Batch
from vitaos.engine.protocols import TrainLoader

OPERATIONS: Final = 400
_ALONE: Final = 200  # repetitions


class Contention(NamedTuple):
    """Of 400 operations the median time in milliseconds and the mean of waits; the loader's rate meanwhile."""

    alone_ms: float
    beside_ms: float
    waits_beside: float
    images_per_s: float

    @property
    def factor(self) -> float:
        """How many times longer the operations take."""
        return self.beside_ms / self.alone_ms


def measure_contention(loader: TrainLoader, *, seconds: float = 5.0) -> Contention:
    """Time small operations alone, and beside a loader whose batches another thread takes as they come."""
    numbers = torch.zeros(8)
    next(loader.epoch(0))  # a process of its own has started by then

    def operations() -> float:
        begin = time.perf_counter()
        for _ in range(OPERATIONS):
            numbers.add_(1)
        return 1000 * (time.perf_counter() - begin)

    alone = statistics.median(operations() for _ in range(_ALONE))
    reader = _Reader(loader)
    try:
        time.sleep(seconds / 5)
        before, begin, found, waits = reader.images, time.perf_counter(), [], 0
        while time.perf_counter() - begin < seconds:
            waited = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            found.append(operations())
            waits += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - waited
        rate = (reader.images - before) / (time.perf_counter() - begin)
    finally:
        reader.stop()
    return Contention(alone, statistics.median(found), waits / len(found), rate)


class _Reader:
    """A thread that takes batches, epoch after epoch."""

    def __init__(self, loader: TrainLoader) -> None:
        self.images = 0
        self._stop = False
        self.thread = threading.Thread(target=self._read, args=(_endless(loader),), daemon=True)
        self.thread.start()

    def _read(self, batches: Iterator[Batch]) -> None:
        for batch in batches:
            self.images += len(batch.images)
            if self._stop:
                return

    def stop(self) -> None:
        self._stop = True
        self.thread.join()


def _endless(loader: TrainLoader) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
