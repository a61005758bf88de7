"""Whether a file that a run has open is written to: its memory map shows what is in it now, without a word."""

import logging
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class WrittenTo:
    """Watches one file from now on.

    Args:
        path: another file that takes its name later is no change: the one that is open stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = path.stat()

    def look(self) -> None:
        """Warn where the file was written to since the last look.

        Raises:
            ValueError: its size is another one, so that records lie elsewhere, or nowhere: reading those would end the
                process (SIGBUS).
        """
        with suppress(FileNotFoundError):
            now, known = self._path.stat(), self._known
            if now.st_ino != known.st_ino:
                return
            if now.st_size != known.st_size:
                raise ValueError(
                    f"{self._path} has {now.st_size} bytes now and had {known.st_size} when this run opened it: it was "
                    "written over in place. Put the file back, start again, and give a new one its name by moving it"
                )
            if now.st_mtime_ns != known.st_mtime_ns:
                self._known = now
                log.warning(
                    "%s was written to while this run reads it: images of this run may come from two files (a new file "
                    "should be moved to this name, not copied over it)",
                    self._path,
                )
