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

_REPORTED_WAIT_S: Final = 0.5
_RETRY_EVERY_S: Final = 30.0


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
    tries: int = 0


class BackgroundWriter:
    """Runs the writes of snapshots in a thread, one after the other.

    A write that failed is kept and tried again, until it succeeds or a newer one is submitted.

    Args:
        max_lag: how many saves may wait behind the one being written before :meth:`submit` waits.
        report: receives a message for every failure, every success after a failure and every long wait (called from
            either thread).
        retry_every_s: seconds between two tries of a write that failed, while nothing else is submitted.
    """

    def __init__(self, *, max_lag: int, report: Callable[[str], None], retry_every_s: float = _RETRY_EVERY_S) -> None:
        self._report = report
        self._retry_every_s = retry_every_s
        self._failed: _Job | None = None
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
            if waited > _REPORTED_WAIT_S:
                self._report(
                    f"Training waited {waited:.1f} s for the disk to take earlier checkpoints; save less often."
                )
        self._drop_failed()
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

    def retry(self) -> bool:
        """Try once more what failed last, and wait for everything; whether nothing is left unwritten."""
        self.flush()
        job = self._take_failed()
        if job is None:
            return True
        self._slots.acquire()
        self._jobs.put(job)
        self.flush()
        return self._failed is None

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._free.clear()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=None if self._failed is None else self._retry_every_s)
            except queue.Empty:
                self._retry_in_thread()
                continue
            if job is None:
                return
            try:
                self._attempt(job)
            finally:
                self._slots.release()
                self._finish_one()

    def _retry_in_thread(self) -> None:
        job = self._take_failed()
        if job is None:
            return
        try:
            self._attempt(job)
        finally:
            self._finish_one()

    def _take_failed(self) -> _Job | None:
        """The write that failed last, for one more try, which counts as unfinished from now on."""
        with self._idle:
            job, self._failed = self._failed, None
            if job is None:
                return None
            self._unfinished += 1
        return job._replace(tries=job.tries + 1)

    def _attempt(self, job: _Job) -> None:
        """Write a job; one that fails is kept for another try, and only its first failure is counted and reported."""
        try:
            job.snapshot.wait()
            job.write(job.snapshot.state)
        except Exception as error:  # whatever went wrong, training goes on, and the user learns of it
            self.last_error = f"{type(error).__name__}: {error}"
            self._drop_failed(job)
            if job.tries == 0:
                self.failures += 1
                self._report(
                    f"Saving {job.what} failed ({self.last_error}); failure number {self.failures}. "
                    "The checkpoints before it are untouched; training goes on, and the save is tried again."
                )
            return
        self._drop_failed()
        self._recycle(job)
        if job.tries > 0:
            self._report(f"Saving {job.what} succeeded after {job.tries + 1} tries.")

    def _drop_failed(self, newer: _Job | None = None) -> None:
        """Forget the write that failed last, which a newer state replaces; keep `newer` in its place."""
        with self._idle:
            job, self._failed = self._failed, newer
        if job is not None:
            self._recycle(job)

    def _recycle(self, job: _Job) -> None:
        job.snapshot.state = None
        self._free.append(job.snapshot)

    def _finish_one(self) -> None:
        with self._idle:
            self._unfinished -= 1
            self._idle.notify_all()
