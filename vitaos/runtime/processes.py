"""Telling one process from another, also after its number has been given to a new one; the cores of this one."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Final

DEVICES: Final = ("auto", "cpu", "cuda")
"""Where a process may be told to compute; auto: on a GPU where there is one."""


def usable_cores() -> int:
    """Cores that this process may use: by its affinity mask, where the system has one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_start(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None when there is none (or no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    state, start = fields[0], fields[19]
    return None if state in "ZX" else int(start)


def machine() -> str:
    """Identifies what process numbers are counted in: this boot of this machine, and this container."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def ignore_requests_to_stop() -> None:
    """For a helper process (a loader's worker): leave the decision when to stop to its parent.

    torchrun and SLURM signal whole process groups. The parent answers such a request by finishing its step and saving,
    for which it needs its helpers. Only a SIGTERM that the parent itself sends ends the helper, as does its death
    (which PyTorch's workers watch for).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_asks, name="sigterm", daemon=True).start()


def _end_when_the_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
