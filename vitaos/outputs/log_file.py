"""``log.txt``: a text file to append to, whose disk may be full without ending the run that writes it."""

import io
import os
from pathlib import Path


class LogFile(io.TextIOBase):
    """Appends text at once; what the disk does not take is counted, and the count written when it takes text again.

    Raises:
        OSError: the file cannot be opened (the only error that it raises).
    """

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.lost_lines = 0

    def write(self, text: str) -> int:
        notice = f"({self.lost_lines} lines lost: the disk took none)\n" if self.lost_lines else ""
        try:
            os.write(self._descriptor, (notice + text).encode(errors="backslashreplace"))  # names need not be UTF-8
            self.lost_lines = 0
        except OSError:
            self.lost_lines += text.count("\n")
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
