"""A file that appears whole or not at all, and the thread that writes such files behind the training loop.

Order of events for one file: a temporary name in the same folder is opened; the zip archive of ``torch.save`` and a
SHA-256 trailer are written; the file is synced; a rename gives it its name; the folder is synced. A process killed
anywhere in between leaves the older files as they were, and at worst a temporary file that no reader looks at.
"""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import torch

from vitaos.checkpoint.safe_load import trailer
from vitaos.checkpoint.snapshot import Snapshot
from vitaos.files import PARTIAL_SUFFIX

_WAIT_WORTH_TELLING_S: Final = 0.5


class _HashingFile:
    """What ``torch.save`` writes to: hashes on the way, and keeps an error for later.

    The error is kept because raising inside the archive writer's callback would run its destructor, which writes again.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
                self._digest.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """The archive writer calls this; the file is flushed and synced once, at the end."""

    def digest(self) -> bytes:
        return self._digest.digest()


def write_temporary(state: Any, folder: Path, name: str) -> Path:
    """Serialize ``state`` under a temporary name in ``folder``, synced to disk; returns its path.

    Raises:
        OSError: disk full, read-only, I/O error. The temporary file is gone by then.
    """
    temporary = folder / f".{name}.{os.getpid()}{PARTIAL_SUFFIX}"
    try:
        with temporary.open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(state, hashing)  # type: ignore[arg-type]  # asks for IO[bytes]; write and flush are all it uses
            if hashing.error is not None:
                raise hashing.error
            file.write(trailer(hashing.digest()))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


class _Job(NamedTuple):
    snapshot: Snapshot
    write: Callable[[Any], None]
    what: str


class BackgroundWriter:
    """Runs the writes of snapshots in a thread, one after the other.

    Args:
        max_lag: how many saves may wait behind the one being written before :meth:`submit` waits.
        report: told, in words, of every failure and of every wait (called from either thread).
    """

    def __init__(self, *, max_lag: int, report: Callable[[str], None]) -> None:
        self._report = report
        self._slots = threading.Semaphore(max_lag + 1)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._free: list[Snapshot] = []
        self._idle = threading.Condition()
        self._unfinished = 0
        self.failures = 0
        self.last_error: str | None = None
        self.waited_s = 0.0
        self._thread = threading.Thread(target=self._run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, state: Any, write: Callable[[Any], None], what: str) -> None:
        """Copy ``state`` now and have ``write(copy)`` called soon; waits only if more than ``max_lag`` wait."""
        if not self._slots.acquire(blocking=False):
            start = time.monotonic()
            self._slots.acquire()
            waited = time.monotonic() - start
            self.waited_s += waited
            if waited > _WAIT_WORTH_TELLING_S:
                self._report(
                    f"Training waited {waited:.1f} s for the disk to take earlier checkpoints; save less often."
                )
        snapshot = self._free.pop() if self._free else Snapshot()
        try:
            snapshot.take(state)
        except BaseException:
            self._slots.release()
            raise
        with self._idle:
            self._unfinished += 1
        self._jobs.put(_Job(snapshot, write, what))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything submitted is written or has failed; False when ``timeout_s`` ran out first."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unfinished == 0, timeout_s)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._free.clear()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.snapshot.wait()
                job.write(job.snapshot.state)
            except Exception as error:  # whatever went wrong, training goes on, and it is told
                self.failures += 1
                self.last_error = f"{type(error).__name__}: {error}"
                self._report(
                    f"Saving {job.what} failed ({self.last_error}); failure number {self.failures}. "
                    "The checkpoints before it are untouched; training goes on."
                )
            finally:
                job.snapshot.state = None
                self._free.append(job.snapshot)
                self._slots.release()
                with self._idle:
                    self._unfinished -= 1
                    self._idle.notify_all()
