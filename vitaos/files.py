"""Writing files whole: at every moment the old file or the new one is there, also after a power cut.

A file is written under a temporary name in its own folder, synced to the disk, renamed, and the folder synced.
"""

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

PARTIAL_SUFFIX: Final = ".partial"
"""How the temporary names end; whatever bears it and was left by a killed process may be removed."""

_NOT_IN_NAMES: Final = re.compile(r"[/\\\x00-\x1f\x7f]")
_MAX_NAME: Final = 150


def file_name(text: str) -> str:
    """A text as one part of a file name: what separates folders and what does not print becomes ``_``; not too long."""
    return _NOT_IN_NAMES.sub("_", text)[:_MAX_NAME]


def partial_path(path: Path) -> Path:
    """A hidden temporary name beside ``path`` that no other thread, process or machine uses."""
    writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_native_id()}"
    return path.with_name(f".{path.name}.{writer}{PARTIAL_SUFFIX}")


@contextmanager
def atomic_write(path: Path, *, partial: Path | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends well, and is removed when it does not.

    Args:
        path: the file to write or replace; its folder must exist.
        partial: the temporary name, in the same folder; by default :func:`partial_path`.

    Raises:
        OSError: disk full, read-only, I/O error; ``path`` is then as it was before.
    """
    partial = partial if partial is not None else partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            # A full disk names no file, and the temporary one means nothing to people.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole; errors as :func:`atomic_write`.

    Names of files that are not Unicode (surrogates of ``os.fsdecode``) are written as the bytes that they are.
    """
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="surrogateescape"))


def replace_file(partial: Path, path: Path) -> None:
    """Sync a file that is written already and give it its name; both names lie in one folder.

    Raises:
        OSError: I/O error; ``path`` is then as it was before.
    """
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut.

    Some network filesystems refuse to sync a folder; a rename is then as durable as they make it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
