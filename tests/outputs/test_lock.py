"""Two jobs in one folder: the second is refused with the first one's name; what a dead job left is taken over."""

import json
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from vitaos.outputs.lock import FolderInUseError, FolderLock
from vitaos.outputs.run_dir import RunDir
from vitaos.runtime.processes import machine, process_start

FORK = multiprocessing.get_context("fork")


def _hold(path: Path, pipe: Connection) -> None:
    FolderLock(path, beat_s=0.2)
    pipe.send("held")
    pipe.recv()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Another process that holds the lock of ``tmp_path``."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(tmp_path / ".lock", there))
    process.start()
    assert here.recv() == "held"
    yield process
    process.kill()
    process.join()


def _pretend(path: Path, **changes: Any) -> None:
    """Leave a lock file as some other job would."""
    lock = {
        "host": socket.gethostname(), "pid": os.getpid(), "process_start": process_start(os.getpid()),
        "machine": machine(), "job": None, "since": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    path.write_text(json.dumps(lock | changes))


def test_the_second_job_is_told_who_the_first_is(holder: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(FolderInUseError) as refusal:
        FolderLock(tmp_path / ".lock")
    assert time.monotonic() - start < 1
    for part in (str(tmp_path), f"process {holder.pid}", f"host {socket.gethostname()}", "another `name`"):
        assert part in str(refusal.value)


def test_a_killed_jobs_lock_is_taken_over(holder: Any, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    told: list[str] = []
    with FolderLock(tmp_path / ".lock", report=told.append):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()
    assert f"Took over {tmp_path} from process {holder.pid}" in told[0]


def test_a_process_number_given_to_another_process_is_no_holder(tmp_path: Path) -> None:
    _pretend(tmp_path / ".lock", pid=1, process_start=12)
    FolderLock(tmp_path / ".lock", report=lambda _: None).release()


def test_a_torn_lock_file_is_taken_over_when_nobody_touches_it(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"host": "n')
    FolderLock(tmp_path / ".lock", beat_s=0.2, stale_after_s=0.5, report=lambda _: None).release()


def test_a_job_on_another_host_that_gives_signs_of_life_is_respected(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    _pretend(path, host="node17", machine="another boot", pid=4321)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(FolderInUseError, match="process 4321 on host node17"):
            FolderLock(path, beat_s=0.5, stale_after_s=20, report=lambda _: None)
    finally:
        stop.set()
        thread.join()


def test_a_silent_job_on_another_host_is_taken_over_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    _pretend(path, host="node17", machine="another boot", pid=4321)
    told: list[str] = []
    start = time.monotonic()
    FolderLock(path, beat_s=0.5, stale_after_s=1.0, report=told.append).release()
    assert 1.0 < time.monotonic() - start < 3
    assert "waiting up to 1 s" in told[0]
    assert "Took over" in told[1]


def test_a_requeued_slurm_job_succeeds_itself_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    _pretend(path, host="node17", machine="another boot", job="815.0")
    monkeypatch.setenv("SLURM_JOB_ID", "815")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    start = time.monotonic()
    FolderLock(path, report=lambda _: None).release()
    assert time.monotonic() - start < 1


def test_of_many_that_start_at_once_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    _pretend(path, pid=1, process_start=12)
    here, there = FORK.Pipe()

    def race() -> None:
        try:
            FolderLock(path, report=lambda _: None)
        except FolderInUseError:
            there.send("refused")
        else:
            there.send("held")
            time.sleep(60)

    racers = [FORK.Process(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    answers = sorted(here.recv() for _ in racers)
    for racer in racers:
        racer.kill()
        racer.join()
    assert answers == ["held"] + ["refused"] * 7


def test_a_job_that_was_taken_over_learns_of_it_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lost: list[str] = []
    lock = FolderLock(path, beat_s=0.1, on_lost=lost.append)
    _pretend(path, host="node18", pid=99)
    deadline = time.monotonic() + 5
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "taken over by process 99 on host node18" in lost[0]
    lock.release()
    assert path.exists()


def test_run_folder_words(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "first").open("never")
    assert run.checkpoints.is_dir()
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
        RunDir(run.path).open("auto")
    (run.checkpoints / "last.pt").touch()
    run.close()
    with pytest.raises(ValueError, match="resume=never forbids") as refusal:
        RunDir(run.path).open("never")
    assert str(run.path) in str(refusal.value)
    with RunDir(run.path).open("auto") as again:
        assert again.has_checkpoint
        again.write_config("a: 1\n")
        again.write_config("a: 1\n")
        again.write_config("a: 2\n")
    assert (run.path / "config.yaml").read_text() == "a: 2\n"
    assert (run.path / "config.1.yaml").read_text() == "a: 1\n"
    assert not (run.path / "config.2.yaml").exists()


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ValueError, match="cannot be made"):
        RunDir(tmp_path / "runs" / "first").open("auto")


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_what_is_left_of_a_run_is_not_written_over(tmp_path: Path, resume: str) -> None:
    """As after somebody removed the numbered checkpoints, or all of them, to save disk."""
    folder = RunDir(tmp_path)
    folder.checkpoints.mkdir()
    best = folder.checkpoints / "best.pt"
    best.touch()
    with pytest.raises(ValueError, match=re.escape(f"a run ({best}) and no last.pt")):
        folder.open(resume)
    best.unlink()
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(ValueError, match="2 epochs in"):
        folder.open(resume)
    folder.open(str(best)).close()  # somebody says where to go on from


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.metrics.write_text('{"step": 1}\n')
    folder.open("auto").close()
