"""Where the time of a step goes: torch's profiler over three steps, and the phases of a step in a table.

What is measured is the run itself: the same steps with the same numbers, a little slower while they are watched.
"""

import csv
import gzip
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

STEPS: Final = 3
_SKIPPED: Final = 2
"""Steps of a start that are left out where the run is long enough: they allocate, and compile what is compiled."""

PHASES: Final = ("data", "augment", "forward", "backward", "update")
T = TypeVar("T")


@dataclass
class _Span:
    """A phase of a step: host times in seconds, and CUDA events around what it put on the device."""

    phase: str
    begun: float
    ended: float = 0.0
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None


class StepProfiler:
    """Watches three steps of a run, once, and writes what it saw.

    Args:
        folder: where ``trace.json.gz`` (chrome://tracing, ui.perfetto.dev), ``phases.csv`` and ``operations.txt`` go.
        device: of the run; on CUDA the device's time is measured as well.
        steps: how many the start will take.
        report: receives the table.
    """

    def __init__(self, folder: Path, device: torch.device, *, steps: int, report: Callable[[str], None]) -> None:
        self._folder, self._device, self._report = folder, device, report
        self._first = max(0, min(_SKIPPED, steps - STEPS))
        self._steps_done, self._watched = 0, 0
        self._spans: list[_Span] = []
        self._profiler: Any = None
        self._begun, self._seconds = 0.0, 0.0
        self._done = False

    def begin_step(self) -> None:
        """Called before each step of the run."""
        if self._profiler is None and not self._done and self._steps_done == self._first:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        if self._profiler is not None:
            self._begun = time.perf_counter()

    def end_step(self) -> None:
        """Called after each step; writes after the last that is watched."""
        self._steps_done += 1
        if self._profiler is None:
            return
        self._seconds += time.perf_counter() - self._begun
        self._watched += 1
        if self._watched == STEPS:
            self.close()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """What happens inside belongs to this phase of the step."""
        return nullcontext() if self._profiler is None else self._timed(name)

    def during(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """The same items; the wait for each belongs to this phase."""
        while True:
            with self.phase(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        span = _Span(name, time.perf_counter())
        if self._device.type == "cuda":
            span.events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            span.events[0].record()
        with torch.profiler.record_function(name):
            yield
        if span.events is not None:
            span.events[1].record()
        span.ended = time.perf_counter()
        self._spans.append(span)

    def close(self) -> None:
        """Write what was watched: all three steps, or those that a run or its start had left."""
        profiler, self._profiler, self._done = self._profiler, None, True
        if profiler is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        profiler.stop()
        if not self._watched:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        plain = self._folder / "trace.json"
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(self._folder / "trace.json.gz", "wb") as packed:
            shutil.copyfileobj(source, packed)
        plain.unlink()
        by = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=60)
        (self._folder / "operations.txt").write_text(table + "\n", encoding="utf-8")
        rows = self._rows()
        with (self._folder / "phases.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        self._report(self._describe(rows))

    def _rows(self) -> list[list[Any]]:
        """Milliseconds a step, by phase; the host's sum to the whole step."""
        on_device = self._device.type == "cuda"
        rows: list[list[Any]] = []
        for phase in PHASES:
            spans = [span for span in self._spans if span.phase == phase]
            host = 1e3 * sum(span.ended - span.begun for span in spans) / self._watched
            row: list[Any] = [phase, f"{host:.3f}"]
            if on_device:
                times = [span.events[0].elapsed_time(span.events[1]) for span in spans if span.events is not None]
                row.append(f"{sum(times) / self._watched:.3f}")
            rows.append(row)
        whole = 1e3 * self._seconds / self._watched
        rest = max(0.0, whole - sum(float(row[1]) for row in rows))
        blank = [""] * on_device
        head = ["phase", "host_ms", *["device_ms"] * on_device]
        return [head, *rows, ["other", f"{rest:.3f}", *blank], ["step", f"{whole:.3f}", *blank]]

    def _describe(self, rows: list[list[Any]]) -> str:
        lines = ["".join(f"{cell:>12}" for cell in row) for row in rows]
        return "\n".join([f"profile of {self._watched} steps, milliseconds a step ({self._folder}):", *lines])
