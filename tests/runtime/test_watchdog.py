"""A rank that dies or hangs is named by the others, which end; nobody is left behind and nobody is accused wrongly."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from vitaos.runtime.watchdog import EXIT_RANK_LOST, Watchdog
from vitaos.runtime.watchdog_link import Connection, Fault, Process, connect, listen

ROOT = Path(__file__).resolve().parents[2]


def _wait_for(path: Path) -> list[int]:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
    return list(json.loads(path.read_text()))


class Job:
    """Some watched ranks in processes of their own."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self.folder, self.world_size = folder, world_size
        self.pids = _wait_for(folder / "pids.json")

    def send(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.pids[rank], number)

    def trigger(self, event: str, *ranks: int) -> None:
        for rank in ranks or range(self.world_size):
            (self.folder / f"{rank}.{event}").touch()

    def log(self, rank: int) -> str:
        return (self.folder / f"{rank}.log").read_text()

    def exit_codes(self) -> tuple[list[int], float]:
        """Exit codes of the ranks, and the seconds until the last had ended."""
        start = time.monotonic()
        return _wait_for(self.folder / "codes.json"), time.monotonic() - start


@pytest.fixture(scope="module")
def server() -> Iterator[IO[str]]:
    """Starts jobs; see ``ranks.py``."""
    command = [sys.executable, "-m", "tests.reliability.ranks"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        yield process.stdin


@pytest.fixture
def job(server: IO[str], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    started: list[Job] = []

    def start(world_size: int = 3, silence_s: float = 30.0) -> Job:
        print(tmp_path, world_size, silence_s, file=server, flush=True)
        started.append(Job(tmp_path, world_size))
        return started[-1]

    yield start
    for one in started:
        if not (one.folder / "codes.json").exists():
            for pid in one.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_and_the_others_end(victim: int, job: Callable[..., Job]) -> None:
    ranks = job()
    ranks.send(victim, signal.SIGKILL)
    codes, seconds = ranks.exit_codes()
    print(f"\nrank {victim} of 3 killed: all ended {seconds:.1f} s later")
    assert seconds < 15
    for rank in range(3):
        assert codes[rank] == (-signal.SIGKILL if rank == victim else EXIT_RANK_LOST)
        if rank != victim:
            assert f"Lost rank {victim} (process {ranks.pids[victim]} on host" in ranks.log(rank)
            assert "it died" in ranks.log(rank)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_stopped_rank_is_named_and_not_left_behind(victim: int, job: Callable[..., Job]) -> None:
    ranks = job(silence_s=3.0)
    ranks.send(victim, signal.SIGSTOP)
    codes, seconds = ranks.exit_codes()
    assert 2.0 < seconds < 15
    for rank in range(3):
        assert codes[rank] == (-signal.SIGKILL if rank == victim else EXIT_RANK_LOST)
        if rank != victim:
            assert f"Lost rank {victim} (process {ranks.pids[victim]} on host" in ranks.log(rank)
    logs = [ranks.log(rank) for rank in range(3) if rank != victim]
    assert any("it hangs: no sign of life for" in log for log in logs), "the first to notice ends it, others see it die"


@pytest.mark.long
def test_a_stopped_rank_is_noticed_within_a_minute_as_configured(job: Callable[..., Job]) -> None:
    ranks = job()
    ranks.send(1, signal.SIGSTOP)
    codes, seconds = ranks.exit_codes()
    print(f"\nrank 1 of 3 stopped: all ended {seconds:.1f} s later")
    assert 28 < seconds < 60
    assert codes == [EXIT_RANK_LOST, -signal.SIGKILL, EXIT_RANK_LOST]


def test_ranks_that_finish_one_after_the_other_are_not_taken_for_dead(job: Callable[..., Job]) -> None:
    ranks = job(silence_s=2.0)
    ranks.trigger("finish", 1)
    ranks.trigger("leave", 1)
    time.sleep(1.0)
    ranks.trigger("finish", 0)
    ranks.trigger("leave", 0)
    time.sleep(3.0)
    ranks.trigger("finish", 2)
    ranks.trigger("leave", 2)
    assert ranks.exit_codes()[0] == [0, 0, 0]
    assert [ranks.log(rank) for rank in range(3)] == ["finished\n"] * 3


def test_a_job_that_was_stopped_as_a_whole_goes_on(job: Callable[..., Job]) -> None:
    ranks = job(silence_s=2.0)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for rank in range(3):
            ranks.send(rank, number)
        time.sleep(4.0)
    ranks.trigger("finish")
    ranks.trigger("leave")
    assert ranks.exit_codes()[0] == [0, 0, 0]


def test_a_mistake_that_all_ranks_find_accuses_nobody(job: Callable[..., Job]) -> None:
    ranks = job()
    ranks.trigger("refuse")
    assert ranks.exit_codes()[0] == [2, 2, 2]
    assert [ranks.log(rank) for rank in range(3)] == [""] * 3


def test_a_mistake_that_one_rank_finds_ends_the_others(job: Callable[..., Job]) -> None:
    ranks = job()
    ranks.trigger("refuse", 1)
    codes, seconds = ranks.exit_codes()
    assert seconds < 15
    assert codes == [EXIT_RANK_LOST, 2, EXIT_RANK_LOST]
    assert "Lost rank 1" in ranks.log(0)


def test_a_collective_that_fails_with_a_dead_rank_names_it(job: Callable[..., Job]) -> None:
    ranks = job()
    ranks.send(2, signal.SIGKILL)
    ranks.trigger("break", 0, 1)
    assert ranks.exit_codes()[0] == [EXIT_RANK_LOST, EXIT_RANK_LOST, -signal.SIGKILL]
    assert "Lost rank 2" in ranks.log(1)


def test_one_process_has_nobody_to_watch() -> None:
    Watchdog(0, 1, lambda text: text).close()


STRANGE: list[bytes] = [
    '{"token": "é"}\n'.encode(),
    b'{"token": "\\ud800"}\n',
    b'{"token": null, "process": 3}\n{"token": 1}\n',
    b"[" * 30_000 + b"\n",
    b'{"token": ' + b"[" * 30_000 + b"\n",
    b"x" * 200_000,
    b"9" * 10_000 + b"\n",
    b"\xff\xfe\n[]\n3\n",
    b"",
]


def test_strange_packets_end_nothing(job: Callable[..., Job], tmp_path: Path) -> None:
    ranks = job(silence_s=2.0)
    invitation = json.loads((tmp_path / "invitation").read_text())
    half_right = {"token": invitation["token"], "process": {"rank": "one"}}
    links = []
    for packet in (*STRANGE, json.dumps(half_right).encode() + b"\n"):
        links.append(socket.create_connection(("localhost", invitation["port"])))
        with contextlib.suppress(OSError):  # closed while the rest of a long one is sent
            links[-1].sendall(packet)
    time.sleep(3.0)
    ranks.trigger("finish")
    ranks.trigger("leave")
    assert ranks.exit_codes()[0] == [0, 0, 0]
    assert [ranks.log(rank) for rank in range(3)] == ["finished\n"] * 3
    for link in links:
        link.close()


def test_what_is_no_message_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours)
        theirs.sendall(b"[" * 20_000 + b'\n3\n"x"\n{"bye": true}\n')
        assert list(connection.receive()) == [{"bye": True}]
        assert not connection.closed
    me = Process.me(1)
    whole = {"process": vars(me), "why": "it died", "hung": False}
    assert Fault.read(json.loads(json.dumps(whole))) == Fault(me, "it died", False)
    for key, value in (("process", None), ("process", vars(me) | {"pid": "1"}), ("why", 3), ("hung", 1)):
        assert Fault.read(whole | {key: value}) is None
    assert Fault.read("lost") is None


def test_the_port_is_open_on_the_rendezvous_interface_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for address in ("localhost", "127.0.0.1", "127.0.0.2"):
        with listen(address, 2) as listener:
            host, port = listener.getsockname()[:2]
            assert host.startswith("127.")
            connect((address, host), port, 5.0).close()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # a loopback name, and ranks on other machines
    with listen("127.0.0.2", 2) as listener:
        host, port = listener.getsockname()[:2]
        assert host in ("::", "0.0.0.0")
        connect(("127.0.0.1", host), port, 5.0).close()
