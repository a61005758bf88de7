"""Being asked to stop: the signal only sets a flag, and the loop saves and ends where it can go on later.

Schedulers announce the end: SLURM sends SIGTERM (or, with ``--signal``, SIGUSR1 some time ahead; submitit asks it for
SIGUSR2), Kubernetes and spot machines send SIGTERM, a person presses Ctrl-C. All mean the same: finish the step, save,
exit with :data:`EXIT_PREEMPTED`.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

EXIT_PREEMPTED: Final = 75
"""Exit status of a run that stopped on request with its state saved: ``EX_TEMPFAIL`` of sysexits.h, "try again"."""

MARKER_VARIABLE: Final = "VITAOS_PREEMPTED_MARKER"
"""Names a file that a preempted run leaves for its batch script: torchrun and srun do not pass on the exit status."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

_Handler = Callable[[int, FrameType | None], Any] | int | None


def mark_preempted() -> int:
    """The exit status of a preempted run, :data:`EXIT_PREEMPTED`; first leaves the marker if the job asked for one."""
    marker = os.environ.get(MARKER_VARIABLE)
    if marker:
        path = Path(marker)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return EXIT_PREEMPTED


class Preemption:
    """Listens for requests to stop from its making until :meth:`close`; also a context manager.

    Args:
        signals: the signals that ask for a stop. The first SIGINT does too when listed; the second interrupts at once.

    In a thread other than the main one (where Python lets no handler be set) nothing is listened to.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = _SIGNALS) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, _Handler] = {}
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop (the ranks have to agree on the step: not every one may know)."""
        return self._received is not None

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def __enter__(self) -> "Preemption":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
