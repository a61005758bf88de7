"""What a person sees while a run goes on: a bar with rate and time left on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressDisplay:
    """Shows the steps of a run. A sink of the trainer; made on the main rank only.

    Args:
        total_steps: last global step of the run.
        steps_per_epoch: global steps in one epoch, for the epoch shown.
        stream: where to write; standard output by default.
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, stream: TextIO | None = None) -> None:
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._stream = stream or sys.stdout
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started: tuple[float, int] | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps: ``step`` and whatever other numbers there are."""
        step = int(record["step"])
        epochs = -(-self._total // self._steps_per_epoch)
        epoch = min(step // self._steps_per_epoch + 1, epochs)
        text = "  ".join(_format(key, record[key]) for key in ("loss", "lr", "images_per_s") if key in record)
        if self._stream.isatty():
            self._show_bar(step, f"epoch {epoch}/{epochs}  {text}")
        else:
            left = self._time_left(step, float(record.get("train_seconds", time.monotonic())))
            self.message(f"epoch {epoch}/{epochs}  step {step}/{self._total}  {text}{left}")

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of an epoch, or of the part of one that a run ends with: its losses and accuracies."""
        keys = ("train_loss", "val_top1", "val_top5", "val_loss", "ema_top1", "images_per_s", "mfu", "memory_gb")
        text = "  ".join(_format(key, line[key]) for key in keys if line.get(key) is not None)
        self.message(f"epoch {int(line['epoch']) + 1} {self._how_far(line)}  {text}")

    def rewind(self, step: int) -> None:
        """A display keeps nothing that could be taken back."""

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_bar(self, step: int, text: str) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
            )
            self._bar = Progress(*columns, console=Console(file=self._stream))
            self._bar.start()
            self._task = self._bar.add_task(text, total=self._total, completed=step)
        assert self._task is not None
        self._bar.update(self._task, completed=step, description=text)

    def _how_far(self, line: Mapping[str, Any]) -> str:
        whole = self._steps_per_epoch
        of_epoch = int(line["step"]) - int(line["epoch"]) * whole if "step" in line else whole
        return "done" if of_epoch >= whole else f"left after {of_epoch} of {whole} steps"

    def _time_left(self, step: int, now: float) -> str:
        """From the time at which the steps were taken, not shown: two lines may come at once."""
        if self._started is None or step <= self._started[1]:
            self._started = (now, step)
            return ""
        seconds = (now - self._started[0]) / (step - self._started[1]) * (self._total - step)
        return f"  left {int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _format(key: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return f"{key} {value}"
    if key == "lr":
        return f"lr {value:.2e}"
    if key == "images_per_s":
        return f"{value:,.0f} images/s"
    if key == "mfu":
        return f"MFU {100 * value:.1f}%"
    if key == "memory_gb":
        return f"{value:.2f} GB"
    return f"{key} {value:.2f}" if "top" in key else f"{key} {value:.4f}"
