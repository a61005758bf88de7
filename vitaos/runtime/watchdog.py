"""Notices a rank that died or hangs, says which, and ends the others, which would wait for it in a collective for ever.

Every rank gives a sign of life from a thread, so that a long pause of the loop (compilation, an evaluation) is none.
Rank 0 listens: a closed connection is a death, seen at once; a silent one is a hang, seen after ``silence_s``. It
reports it to the others and ends; they watch rank 0 in the same way. A rank that finishes signs off first.

Plain sockets instead of ``torch.distributed``'s TCPStore: a store does not notice a client's closed connection, and
its calls block without limit when the process that serves it is stopped, which is one of the cases to be noticed.
"""

import contextlib
import hmac
import json
import os
import secrets
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final

from vitaos.runtime.processes import process_start
from vitaos.runtime.watchdog_link import Connection, Fault, Process, connect, listen

EXIT_RANK_LOST: Final = 76
"""Exit status of a process that ended because another rank died or hung."""
_TICK_S: Final = 0.25
_COMMON_END_S: Final = 1.0  # in which ranks that end for one reason do so
_VERDICT_S: Final = 2.0  # in which the death of another rank is noticed
_MAX_STRANGERS: Final = 64
"""Connections that have not identified themselves; beyond these the oldest is closed."""


class Watchdog:
    """Watches the ranks of a job from its making until :meth:`close`.

    Args:
        rank, world_size: of this process; with one process there is nothing to watch and no thread.
        share: returns rank 0's argument on every rank (a broadcast); called once, by all ranks.
        beat_s: seconds between signs of life.
        silence_s: seconds of silence after which a rank counts as hung.
        grace_s: seconds between the message and the end of the process, in which the loop may end by itself.
        report: takes the message; by default standard error.

    Attributes:
        lost: the message about the rank that was lost; None while all live.
        before_exit: called before the process is ended, to finish what is being written.

    A rank that leaves without :meth:`close` (an exception of its own, a kill) ends the others. So where all ranks
    agreed to stop, each calls :meth:`close` before it leaves. As a context manager it does so at a normal end alone.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        share: Callable[[str], str],
        *,
        beat_s: float = 2.0,
        silence_s: float = 30.0,
        grace_s: float = 2.0,
        report: Callable[[str], None] = lambda message: print(message, file=sys.stderr, flush=True),
    ) -> None:
        self.lost: str | None = None
        self._me = Process.me(rank)
        self._world_size = world_size
        self._beat_s, self._silence_s, self._grace_s = beat_s, silence_s, grace_s
        self.before_exit: Callable[[], None] = lambda: None
        self._report = report
        self._signs_off = True
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if world_size == 1:
            return
        address = os.environ.get("MASTER_ADDR", "localhost")
        if rank == 0:
            self._listener = listen(address, world_size)
            self._token = secrets.token_hex(16)
            self._connections: list[Connection] = []
            self._arrived: set[int] = {0}
            host, port = self._listener.getsockname()[:2]
            invitation = {"host": host, "port": port, "token": self._token, "hub": asdict(self._me)}
            share(json.dumps(invitation))
            target = self._run_hub
        else:
            invitation = json.loads(share(""))
            link = connect((address, invitation["host"]), invitation["port"], silence_s)
            self._hub = Connection(link)
            self._hub.process = Process(**invitation["hub"])
            self._hub.send(token=invitation["token"], process=asdict(self._me))
            target = self._run_member
        self._thread = threading.Thread(target=target, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sign off: what becomes of this process from here on is no failure. The others go on watching each other."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, (ValueError, KeyboardInterrupt)):
            # Most often every rank raises it. This one accuses nobody any more; a rank that goes on without it sees
            # its connection close when the process ends.
            self._signs_off = False
            self.close()
        elif self._thread is not None:
            # Perhaps a collective that failed since another rank died: the watch then names it and ends the process.
            self._thread.join(_VERDICT_S)
            if self.lost is not None:
                self._thread.join()

    def _run_member(self) -> None:
        hub, now, beaten = self._hub, time.monotonic(), 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(hub.link, selectors.EVENT_READ)
            while not self._closing.is_set():
                selector.select(_TICK_S)
                now = self._forgive_own_pause(now, [hub])
                for message in hub.receive():
                    if (lost := Fault.read(message.get("lost"))) is not None:
                        self._end(lost)
                        return
                    hub.signed_off |= "bye" in message
                if hub.signed_off:
                    return
                if (fault := hub.fault(self._silence_s)) is not None:
                    self._end(fault)
                    return
                beaten = self._beat([hub], beaten)
        if self._signs_off:
            hub.send(bye=True)
            hub.link.close()

    def _run_hub(self) -> None:
        opened = now = time.monotonic()
        beaten = 0.0
        with selectors.DefaultSelector() as selector:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                selector.select(_TICK_S)
                now = self._forgive_own_pause(now, self._connections)
                self._accept(selector)
                for connection in self._connections:
                    self._listen_to(connection)
                faults = [fault for connection in self._connections if (fault := connection.fault(self._silence_s))]
                if not faults and len(self._arrived) < self._world_size and now - opened > self._silence_s:
                    faults = [self._absent()]
                if faults:
                    self._tell_and_end(faults[0])
                    return
                self._drop_finished(selector)
                beaten = self._beat(self._connections, beaten)
        if self._signs_off:
            for connection in self._connections:
                connection.send(bye=True)
                connection.link.close()
            self._listener.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            while True:  # until none is waiting, which is an OSError
                connection = Connection(self._listener.accept()[0])
                self._connections.append(connection)
                selector.register(connection.link, selectors.EVENT_READ)

    def _listen_to(self, connection: Connection) -> None:
        for message in connection.receive():
            if connection.process is not None:
                connection.signed_off |= "bye" in message
            elif (process := self._introduced(message)) is not None:
                connection.process = process
                self._arrived.add(process.rank)
            else:
                connection.closed = True  # a stranger on this port
                return

    def _introduced(self, message: dict[str, Any]) -> Process | None:
        """The rank that a first message comes from; None when it does not come from a rank of this job."""
        token = message.get("token")
        if not isinstance(token, str):
            return None
        # As bytes: of texts, only ASCII can be compared in constant time.
        if not hmac.compare_digest(token.encode("utf-8", errors="replace"), self._token.encode()):
            return None
        process = Process.read(message.get("process"))
        return process if process is not None and 0 < process.rank < self._world_size else None

    def _drop_finished(self, selector: selectors.BaseSelector) -> None:
        strangers = [connection for connection in self._connections if connection.process is None]
        unwanted = strangers[:-_MAX_STRANGERS]
        unwanted += [one for one in strangers if time.monotonic() - one.heard > self._silence_s]
        for connection in list(self._connections):
            if connection.closed or connection.signed_off or connection in unwanted:
                selector.unregister(connection.link)
                connection.link.close()
                self._connections.remove(connection)

    def _absent(self) -> Fault:
        rank = min(set(range(self._world_size)) - self._arrived)
        return Fault(Process(rank, "unknown", 0, None, ""), "it never reported to rank 0", False)

    def _beat(self, connections: list[Connection], beaten: float) -> float:
        now = time.monotonic()
        if now - beaten < self._beat_s:
            return beaten
        for connection in connections:
            connection.send(beat=True)
        return now

    def _forgive_own_pause(self, before: float, connections: list[Connection]) -> float:
        """When this process itself was stopped for a while, the others' silence is not theirs: count it anew."""
        now = time.monotonic()
        if now - before > self._beat_s + _TICK_S:
            for connection in connections:
                connection.heard = now
        return now

    def _tell_and_end(self, fault: Fault) -> None:
        for connection in self._connections:
            connection.send(lost=asdict(fault))
        self._end(fault)

    def _end(self, fault: Fault) -> None:
        if fault.process.rank == self._me.rank:
            self.lost = "The other ranks have ended without this one, which was silent for too long."
        else:
            self.lost = f"Lost {fault.process}: {fault.why}."
            if not fault.hung and self._closing.wait(_COMMON_END_S):
                return  # this rank ends for the same reason, and reports it itself
            if fault.hung:
                _kill(fault.process, self._me)
        self._report(f"{self.lost} Ending {self._me}; the same command continues from the newest checkpoint.")
        if self._closing.wait(self._grace_s):
            return  # the loop met the failure too and ends by itself, having saved what it could
        with contextlib.suppress(Exception):
            self.before_exit()
        os._exit(EXIT_RANK_LOST)


def _kill(process: Process, me: Process) -> None:
    """Do not leave a hung rank of this machine behind: it is stopped or stuck and would end for nothing else."""
    here = process.machine == me.machine and process.host == me.host
    if here and process.start is not None and process_start(process.pid) == process.start:
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
