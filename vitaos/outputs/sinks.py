"""Everywhere a run's numbers go: the metrics file, the screen, ``log.txt`` and, where asked for, trackers."""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO, cast

from vitaos.outputs.log_file import LogFile
from vitaos.outputs.metrics import MetricsFile
from vitaos.outputs.progress import ProgressDisplay
from vitaos.outputs.run_dir import RunDir
from vitaos.outputs.trackers import Trackers


class RunSinks:
    """All sinks of a run as one; made on the main rank, and a context manager that closes them.

    Args:
        folder: the run folder, open.
        total_steps, steps_per_epoch: for time left and the epoch shown.
        tracker: the ``logger`` section: which trackers, and their settings.
        run_name: the run's name for the trackers.
        config: resolved configuration, for the trackers.
    """

    def __init__(
        self,
        folder: RunDir,
        *,
        total_steps: int,
        steps_per_epoch: int,
        tracker: Mapping[str, Any],
        run_name: str,
        config: Mapping[str, Any],
    ) -> None:
        self._log_file = cast(TextIO, LogFile(folder.log))  # all of TextIO that is used
        self._handler = logging.StreamHandler(self._log_file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("vitaos").addHandler(self._handler)
        self.screen = ProgressDisplay(total_steps, steps_per_epoch)
        self.file = ProgressDisplay(total_steps, steps_per_epoch, self._log_file)
        self._metrics = MetricsFile(folder.metrics, report=self.message)
        self._trackers = Trackers(folder.path, run_name=run_name, config=config, settings=tracker, report=self.message)
        self._sinks: list[MetricsFile | ProgressDisplay | Trackers] = [
            *(self._metrics, self.screen, self.file),
            self._trackers,
        ]

    def message(self, text: str) -> None:
        """Print a line on the screen and into ``log.txt``."""
        for display in (self.screen, self.file):
            display.message(text)

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""
        for sink in self._sinks:
            sink.log(record)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch."""
        for sink in self._sinks:
            sink.metrics(line)

    def rewind(self, step: int) -> None:
        """Only the lines of metrics up to global step ``step`` belong to the run that starts or continues now."""
        for sink in self._sinks:
            sink.rewind(step)

    def finish(self) -> str | None:
        """Try again to write the lines of metrics that the disk refused; a message when some are still unwritten."""
        return self._metrics.finish()

    def close(self, *, failed: bool = False) -> None:
        """Leave the terminal as it was and finish the trackers' uploads; they show a ``failed`` run as such."""
        self.screen.close()
        self._trackers.close(failed=failed)
        logging.getLogger("vitaos").removeHandler(self._handler)
        self._log_file.close()

    def __enter__(self) -> "RunSinks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)
