"""What a program does to the null GPU: launches by kernel, and every wait and pageable copy with the line it is from.

with recording() as record:
    step()
record.events    Counter of Event(kind, what, line)
record.kernels   Counter: name of a kernel -> launches
"""

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

KINDS: Final = ("launch", "wait", "pageable copy", "pinned copy", "device copy", "allocation")  # as in device.h
_LIBRARY: Final = ctypes.CDLL(os.environ["LD_PRELOAD"])
_LISTENER: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_long)
_LIBRARY.null_gpu_count.restype = ctypes.c_long
_LIBRARY.null_gpu_next_kernel.restype = ctypes.c_long
_HERE: Final = str(Path(__file__).resolve().parent)
_ROOT: Final = Path(__file__).resolve().parents[2]
_listening: Any = None  # the C side holds no reference of its own, of this and of the names
_named: dict[bytes, Any] = {}


class Event(NamedTuple):
    """Something that the host should not do within a step: its kind, CUDA's name for it, and the line of our code."""

    kind: str
    what: str
    line: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.what}) at {self.line}"


class Record:
    """See the head of this file."""

    def __init__(self) -> None:
        self.events: Counter[Event] = Counter()
        self.kernels: Counter[str] = Counter()

    def lines(self) -> dict[str, int]:
        """The events as text -> times."""
        return {str(event): times for event, times in sorted(self.events.items())}


def launch(name: bytes) -> None:
    """Count a launch of something that has no kernel on the null GPU."""
    _LIBRARY.null_gpu_launch(_named.setdefault(name, ctypes.create_string_buffer(name)))


def count(kind: str) -> int:
    """How often that kind happened since the process began."""
    return int(_LIBRARY.null_gpu_count(KINDS.index(kind)))


def start() -> Record:
    """Record until :func:`stop`."""
    global _listening  # noqa: PLW0603 - one device, one listener
    record = Record()

    def heard(kind: int, what: bytes, _: int) -> None:
        record.events[Event(KINDS[kind], what.decode(), _line())] += 1

    _listening = _LISTENER(heard)
    _LIBRARY.null_gpu_listen(_listening)
    return record


def stop() -> None:
    """End a recording."""
    global _listening  # noqa: PLW0603 - one device, one listener
    _LIBRARY.null_gpu_listen(None)
    _listening = None


@contextmanager
def recording() -> Iterator[Record]:
    """Record what happens within."""
    before = _kernels()
    record = start()
    try:
        yield record
    finally:
        stop()
        record.kernels = _kernels() - before


def _line() -> str:
    """The innermost line of the project that is being executed."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(_ROOT)) and not path.startswith(_HERE) and "site-packages" not in path:
            return f"{Path(path).relative_to(_ROOT)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "no line of the project"


def _kernels() -> Counter[str]:
    found: Counter[str] = Counter()
    name, launches, slot = ctypes.c_char_p(), ctypes.c_long(), 0
    while (slot := _LIBRARY.null_gpu_next_kernel(ctypes.c_long(slot), ctypes.byref(name), ctypes.byref(launches))) >= 0:
        found[(name.value or b"?").decode()] += launches.value
    return found
