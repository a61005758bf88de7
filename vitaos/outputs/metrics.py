"""``metrics.jsonl``: one JSON object a line, never a torn one, and after a resume never a line from a lost future."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitaos.files import write_text
from vitaos.metrics_reader import finite_or_null, read_metrics


class MetricsFile:
    """Writes a metrics file (rank 0 only); a sink of the trainer.

    Args:
        path: the file; made with the first line. What it already holds stays until :meth:`rewind`.
        report: receives a message when lines cannot be written; they are kept and written when the disk allows it.
    """

    def __init__(self, path: str | Path, *, report: Callable[[str], None] = print) -> None:
        self.path = Path(path)
        self._report = report
        self._written: list[str] = []
        self._unwritten: list[str] = []

    def rewind(self, step: int) -> None:
        """Keep only the lines up to global step ``step``, those that the state to resume from knows of (-1: none).

        A line is placed by its step alone: after a fork, or a fall-back to an older checkpoint, the file may hold
        fewer or more lines than the run has had.
        """
        if self.path.exists():
            lines = read_metrics(self.path)
            kept = [line for line in lines if isinstance(line.get("step"), int) and line["step"] <= step]
            self._written = [json.dumps(line) + "\n" for line in kept]
            write_text(self.path, "".join(self._written))

    def log(self, record: Mapping[str, Any]) -> None:
        """Readings within an epoch are not for this file; lines that could not be written are tried again."""
        if self._unwritten:
            self._write()

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line (plain values; ``step`` among them) and see it to the disk."""
        assert "step" in line, "a metrics line without its step cannot be placed after a resume"
        self._unwritten.append(json.dumps(finite_or_null(line), allow_nan=False) + "\n")
        self._write()

    def finish(self) -> str | None:
        """Try once more what is unwritten; None when every line is on disk, otherwise a message with the lines."""
        if self._unwritten or (self._written and not self.path.exists()):
            self._write()
        if not self._unwritten:
            return None
        lines = "".join(self._unwritten).rstrip()
        return f"{len(self._unwritten)} lines are NOT written to {self.path}:\n{lines}"

    def _write(self) -> None:
        """Write what is unwritten, all or nothing: a full disk leaves the file ending in a whole line."""
        try:
            if self._written and not self.path.exists():
                self._report(f"{self.path} was removed while the run goes on; its lines are written anew.")
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._unwritten, self._written = self._written + self._unwritten, []
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    data = "".join(self._unwritten).encode()
                    if file.write(data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), end)
                    raise
        except OSError as error:
            self._report(f"{self.path} could not be written ({error.strerror}); its lines are kept and tried again.")
        else:
            self._written += self._unwritten
            self._unwritten = []
