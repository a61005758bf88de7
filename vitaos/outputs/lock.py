"""One job to a run folder: a lock file that names its holder, and that a dead holder cannot keep.

The holder is known by host, process id and the process's start time. On the same machine a look at the process table
shows whether it lives. From another machine only signs of life can: the holder touches the file every few seconds,
and a job that finds a file nobody touches for :data:`STALE_AFTER_S` takes it over. Only rank 0 of a job holds the lock.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from vitaos.runtime.processes import machine, process_start

BEAT_S: Final = 5.0
STALE_AFTER_S: Final = 60.0
EXIT_LOCK_LOST: Final = 77
"""Exit status of a job whose folder was taken over by another one while it was stopped or cut off from the disk."""


class FolderInUseError(ValueError):
    """Another living job holds the run folder; the message names its host and process."""


def _job() -> str | None:
    """Name and restart of the SLURM job this process is of: a requeued job succeeds its own earlier start."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else None


def _describe_self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "machine": machine(),
        "job": _job(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _is_dead(holder: dict[str, Any]) -> bool | None:
    """Whether the holder is known to be gone; None when this machine cannot know."""
    job, mine = holder.get("job"), _job()
    if job and mine and job != mine and job.split(".")[0] == mine.split(".")[0]:
        return True
    if holder.get("host") != socket.gethostname() or holder.get("machine") != machine():
        return None
    pid = holder.get("pid")
    start = process_start(pid) if isinstance(pid, int) else None
    return start is None or start != holder.get("process_start")


def _last_sign(path: Path) -> int | None:
    """Time of the file's last touch, in ns; opened first, since network filesystems look anew on opening."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


class FolderLock:
    """Holds ``path`` from its making until :meth:`release`.

    Args:
        path: the lock file.
        beat_s, stale_after_s: seconds between signs of life, and after how many without one a holder counts as dead.
        on_lost: called when the file was taken over by another job; the default ends the process, so that two never
            write.
        report: called with a message on a take-over and while waiting.

    Raises:
        FolderInUseError: another living job holds it.
    """

    def __init__(
        self,
        path: Path,
        *,
        beat_s: float = BEAT_S,
        stale_after_s: float = STALE_AFTER_S,
        on_lost: Callable[[str], None] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.path = path
        self._beat_s = beat_s
        self._stale_after_s = stale_after_s
        self._on_lost = on_lost or _end_process
        self._report = report
        self._me = _describe_self()
        self._reported_removal = False
        self._acquire()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="folder-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the folder free; a lock that was taken over stays with its new holder."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError), self._guard():  # a folder that is gone needs no release
            if self._read() == self._me:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Makes look-then-replace one act among the processes that share the filesystem."""
        with self.path.with_name(self.path.name + ".guard").open("a") as file:
            with contextlib.suppress(OSError):  # a filesystem without flock: the window is then a few milliseconds
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _write(self) -> None:
        temporary = self.path.with_name(f"{self.path.name}.{self._me['host']}.{self._me['pid']}")
        temporary.write_text(json.dumps(self._me))
        temporary.replace(self.path)

    def _acquire(self) -> None:
        sign = None
        unmoved_since = time.monotonic()
        reported = False
        while True:
            with self._guard():
                holder = self._read()
                if holder is None:
                    return self._write()
                dead = _is_dead(holder)
                unmoved_s = time.monotonic() - unmoved_since
                if dead or (dead is None and unmoved_s > self._stale_after_s):
                    self._write()
                    self._report(f"Took over {self.path.parent} from {_name(holder)}, which is gone.")
                    return None
            newer = _last_sign(self.path)
            if dead is False or (sign is not None and newer is not None and newer != sign):
                raise FolderInUseError(
                    f"{self.path.parent} is in use by {_name(holder)}: two jobs cannot write one run folder. Stop that "
                    "one, or give this run another `name`."
                )
            if not reported:
                self._report(
                    f"{self.path.parent} is locked by {_name(holder)}; waiting up to {self._stale_after_s:.0f} s to "
                    "see whether that still lives."
                )
                reported = True
            sign = newer
            time.sleep(self._beat_s / 5)

    def _beat(self) -> None:
        while not self._released.wait(self._beat_s):
            try:
                holder = self._read()
                if holder and holder != self._me:
                    self._on_lost(
                        f"{self.path.parent} was taken over by {_name(holder)} while this job gave no sign of life."
                    )
                    return
                if holder is None:
                    self._restore()
                os.utime(self.path)
            except OSError:
                continue  # a hiccup of the filesystem; the next beat tries again

    def _restore(self) -> None:
        """Report once that the file, or the whole folder, was removed; lock the folder again when it is there."""
        if not self._reported_removal:
            self._report(f"{self.path} was removed while the run of this folder goes on.")
            self._reported_removal = True
        with self._guard():
            if self._read() is None:
                self._write()
        self._reported_removal = False


def _name(holder: dict[str, Any]) -> str:
    return (
        f"process {holder.get('pid', 'unknown')} on host {holder.get('host', 'unknown')} "
        f"(since {holder.get('since', 'an unknown time')})"
    )


def _end_process(message: str) -> None:
    print(f"{message} Ending this process, so that two do not write the same folder.", flush=True)
    os._exit(EXIT_LOCK_LOST)
