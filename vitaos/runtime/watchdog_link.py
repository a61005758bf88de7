"""What the watchdog's processes exchange: JSON lines over plain sockets, read as if anyone could have sent them.

The port is open to whoever reaches the interface. Whatever comes over it is a message of the expected kind or none.
"""

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from vitaos.runtime.processes import machine, process_start

_MAX_UNREAD_BYTES: Final = 1 << 16
"""More than this at once is no rank's message: the connection is closed."""


@dataclass(frozen=True)
class Process:
    """A rank, as a person and a process table know it."""

    rank: int
    host: str
    pid: int
    start: int | None
    machine: str

    @classmethod
    def me(cls, rank: int) -> "Process":
        return cls(rank, socket.gethostname(), os.getpid(), process_start(os.getpid()), machine())

    @classmethod
    def read(cls, value: Any) -> "Process | None":
        """The process that came as JSON; None for anything else."""
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(cls)}:
            return None
        numbers, texts = (value["rank"], value["pid"]), (value["host"], value["machine"])
        known = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
        return cls(**value) if known and (value["start"] is None or type(value["start"]) is int) else None

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on host {self.host})"


@dataclass(frozen=True)
class Fault:
    """Which rank is lost, and why, as a message; ``hung`` when its process may still be there."""

    process: Process
    why: str
    hung: bool

    @classmethod
    def read(cls, value: Any) -> "Fault | None":
        """The fault that came as JSON; None for anything else."""
        if not isinstance(value, dict):
            return None
        process, why, hung = Process.read(value.get("process")), value.get("why"), value.get("hung")
        return cls(process, why, hung) if process and isinstance(why, str) and isinstance(hung, bool) else None


class Connection:
    """A socket that carries JSON lines and never blocks."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self.link = link
        self.process: Process | None = None
        self.heard = time.monotonic()
        self.closed = False
        self.signed_off = False
        self._buffer = b""

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # a full or closed connection shows itself in receiving
            self.link.send(json.dumps(message).encode() + b"\n")

    def fault(self, silence_s: float) -> Fault | None:
        """What is wrong with the process at the other end, if anything."""
        if self.process is None or self.signed_off:
            return None
        if self.closed:
            return Fault(self.process, "it died: its connection closed without a sign-off", False)
        silent_s = time.monotonic() - self.heard
        if silent_s > silence_s:
            return Fault(self.process, f"it hangs: no sign of life for {silent_s:.0f} s", True)
        return None

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages that have come; sets :attr:`closed` at the end of the connection."""
        try:
            while data := self.link.recv(_MAX_UNREAD_BYTES):
                self._buffer += data
                if len(self._buffer) > _MAX_UNREAD_BYTES:
                    break
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = _parse(line)
            if message is not None:
                self.heard = time.monotonic()
                yield message


def _parse(line: bytes) -> dict[str, Any] | None:
    """A message; None for what is no JSON object (deep nesting included)."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def listen(address: str, world_size: int) -> socket.socket:
    """Listen at `address`, the rendezvous' name for this machine, on that interface alone.

    On every interface only where the name names none: it is not this machine's (address translation), or it
    means this machine's loopback (as the own host name often does) while other machines take part.
    """
    if address in ("localhost", "127.0.0.1"):
        return socket.create_server((address, 0))
    for family, host in _interfaces(address):
        if ipaddress.ip_address(host).is_loopback and os.environ.get("LOCAL_WORLD_SIZE") != str(world_size):
            continue
        with contextlib.suppress(OSError):
            return socket.create_server((host, 0), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _interfaces(address: str) -> list[tuple[socket.AddressFamily, str]]:
    """(family, address in digits) of a host name, without those of a link that need its number."""
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
        return [(family, str(name[0])) for family, _, _, _, name in found if "%" not in str(name[0])]
    return []


def connect(hosts: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """Connect to the first of the hosts that answers; one that stands for every interface is none.

    Raises:
        OSError: none does; the first one's error.
    """
    first: OSError | None = None
    for host in hosts:
        if host in ("::", "0.0.0.0"):
            continue
        try:
            return socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            first = first or error
    assert first is not None, "no hosts"
    raise first
