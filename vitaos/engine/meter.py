"""Loss, gradient norm and rate of the last steps, fetched while training without waiting for the device."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from vitaos.engine.progress import FIXED_POINT, Progress, Sums


class DeviceScalars:
    """A copy of a few numbers from the device to the host that nobody waits for until :meth:`values` is asked."""

    def __init__(self, *scalars: Tensor) -> None:
        vector = torch.stack([scalar.to(torch.float64) for scalar in scalars])
        self._event: torch.cuda.Event | None = None
        if vector.is_cuda:
            self._host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            self._host.copy_(vector, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = vector

    def values(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return [float(value) for value in self._host.tolist()]


class Meter:
    """Reads the running sums every few steps, one step late, so that the device has the next step to do meanwhile.

    Args:
        progress, sums: of the run.
        ranks: number of processes; the loss shown is that of the main rank's images.
        first_bad_step: the guard's scalar, read along.
        loss_scale: fp16's scalar, or None.
    """

    def __init__(
        self, progress: Progress, sums: Sums, *, ranks: int, first_bad_step: Tensor, loss_scale: Tensor | None
    ) -> None:
        self._progress, self._sums, self._ranks = progress, sums, ranks
        self._extra = [first_bad_step] if loss_scale is None else [first_bad_step, loss_scale]
        self._reading: DeviceScalars | None = None
        self._read_at, self._read_step = 0.0, 0
        self.start()

    def start(self) -> None:
        """Training begins, or goes on after something else."""
        self._before = self._read().values()
        self._begun = self._shown = time.perf_counter()
        self._shown_step = self._progress.step

    def stop(self) -> None:
        """Book the time since :meth:`start`; the device must be done."""
        now = time.perf_counter()
        self._progress.train_seconds += now - self._begun
        self._progress.epoch_seconds += now - self._begun
        self._begun = now

    def send(self) -> None:
        """Put the numbers after the present step on their way, with the time, so that rates are those of the steps."""
        self._reading, self._read_at, self._read_step = self._read(), time.perf_counter(), self._progress.step

    def receive(self) -> tuple[int, dict[str, Any]] | None:
        """(first bad step or -1, record for the sinks) of what :meth:`send` sent; None when nothing is on its way."""
        if self._reading is None:
            return None
        values, self._reading = self._reading.values(), None
        loss, norm, steps, skipped, first_bad, *scale = values
        counted = steps - self._before[2]
        images = (self._read_step - self._shown_step) * self._progress.global_batch
        record = {
            "epoch": self._progress.epoch,
            "step": self._read_step,
            "loss": (loss - self._before[0]) / FIXED_POINT * self._ranks / counted if counted else math.nan,
            "grad_norm": (norm - self._before[1]) / counted if counted else math.nan,
            "skipped_steps": int(skipped),
            "images_per_s": images / max(self._read_at - self._shown, 1e-9),
            "train_seconds": self._progress.train_seconds + self._read_at - self._begun,
        }
        if scale:
            record["loss_scale"] = scale[0]
        self._before, self._shown, self._shown_step = values, self._read_at, self._read_step
        return int(first_bad), record

    def _read(self) -> DeviceScalars:
        sums = self._sums
        return DeviceScalars(sums.loss, sums.norm, sums.steps, sums.skipped, *self._extra)
