"""Killed while writing, full disk, I/O errors, unwritable folder: for real, in processes of their own."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.reliability.states import make_state, names
from vitaos.checkpoint.resume import find_newest, load_checkpoint
from vitaos.checkpoint.store import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("open", "write", "trailer", "fsync", "rename", "renamed", "link", "second rename", "folder sync")

# One process imports once and forks a writer for each stage, which dies there by SIGKILL.
_WRITERS = """
    import json, os, pathlib, signal, sys
    sys.path.insert(0, {root!r})
    from tests.reliability.states import make_state
    from vitaos.checkpoint import store as checkpoint
    from vitaos.checkpoint import writer as checkpoint_writer

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_before(owner, name):
        setattr(owner, name, die)

    def die_at_call(owner, name, number):
        original, calls = getattr(owner, name), []
        def counted(*arguments, **keywords):
            calls.append(1)
            if len(calls) == number:
                die()
            return original(*arguments, **keywords)
        setattr(owner, name, counted)

    def die_after(owner, name):
        original = getattr(owner, name)
        def after(*arguments, **keywords):
            original(*arguments, **keywords)
            die()
        setattr(owner, name, after)

    arm = {{
        "open": lambda: die_after(pathlib.Path, "open"),
        "write": lambda: die_at_call(checkpoint_writer._HashingFile, "write", 9),
        "trailer": lambda: die_before(checkpoint_writer, "trailer"),
        "fsync": lambda: die_before(os, "fsync"),
        "rename": lambda: die_at_call(pathlib.Path, "replace", 1),
        "renamed": lambda: die_after(pathlib.Path, "replace"),
        "link": lambda: die_before(os, "link"),
        "second rename": lambda: die_at_call(pathlib.Path, "replace", 2),
        "folder sync": lambda: die_before(checkpoint, "sync_folder"),
    }}

    def write(folder, stage):
        checkpoints = checkpoint.Checkpoints(folder)
        for step in (10, 20):
            checkpoints.save(make_state(step), step=step, block=True)
        arm[stage]()
        checkpoints.save(make_state(30), step=30, block=True)

    statuses = {{}}
    for stage in arm:
        writer = os.fork()
        if writer == 0:
            write(os.path.join(sys.argv[1], stage), stage)
            os._exit(0)
        statuses[stage] = os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])
    print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder for each stage with what its writer left, and the writers' exit codes."""
    root = tmp_path_factory.mktemp("killed")
    code = textwrap.dedent(_WRITERS).format(root=str(ROOT))
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return root, json.loads(done.stdout)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at(stage: str, killed: tuple[Path, dict[str, int]]) -> None:
    root, statuses = killed
    folder = root / stage
    assert statuses[stage] == -signal.SIGKILL
    expected = 30 if stage in ("renamed", "link", "second rename", "folder sync") else 20
    found = find_newest(folder)
    assert found is not None
    assert (found.step, found.damaged) == (expected, ())
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] in (20, 30), "last.pt is whole at every moment"
    checkpoints = Checkpoints(folder)
    checkpoints.save(make_state(40), step=40)
    checkpoints.close()
    assert names(folder)[0] == "last.pt", "no temporary file is left"
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 40


class _Told(list[str]):
    def __call__(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def started(tmp_path: Path) -> tuple[Checkpoints, Path, _Told]:
    told = _Told()
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, report=told)
    checkpoints.save(make_state(10), step=10, block=True)
    return checkpoints, folder, told


def _failed_once(checkpoints: Checkpoints, folder: Path, told: _Told, wording: str) -> None:
    assert checkpoints.failures == 1
    assert wording in str(checkpoints.last_error)
    assert len(told) == 1
    assert "failure number 1" in told[0]
    assert wording in told[0]
    assert names(folder) == ["last.pt", "step-00000010.pt"]
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 10


def _saves_again(checkpoints: Checkpoints, folder: Path) -> None:
    assert checkpoints.save(make_state(30), step=30, block=True)
    checkpoints.close()
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 30


def test_a_file_that_may_not_grow(started: tuple[Checkpoints, Path, _Told]) -> None:
    """The kernel refuses to write beyond a limit, in the middle of the archive."""
    checkpoints, folder, told = started
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        saved = checkpoints.save(make_state(20, numbers=1 << 17), step=20, block=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not saved
    _failed_once(checkpoints, folder, told, "File too large")
    _saves_again(checkpoints, folder)


def test_a_full_disk(tmp_path: Path) -> None:
    """A filesystem of 1 MiB with a state of 2 MB; later there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small filesystem takes root")
    try:
        told = _Told()
        checkpoints = Checkpoints(disk / "checkpoints", report=told)
        checkpoints.save(make_state(10), step=10, block=True)
        assert not checkpoints.save(make_state(20, numbers=1 << 17), step=20, block=True)
        _failed_once(checkpoints, disk / "checkpoints", told, os.strerror(errno.ENOSPC))
        subprocess.run([str(mount), "-o", "remount,size=16m", str(disk)], check=True)
        assert checkpoints.save(make_state(20, numbers=1 << 17), step=20, block=True)
        _saves_again(checkpoints, disk / "checkpoints")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["fsync", "rename"])
def test_an_io_error(stage: str, started: tuple[Checkpoints, Path, _Told], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, folder, told = started

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if stage == "fsync" else (Path, "replace")), fail)
        assert not checkpoints.save(make_state(20), step=20, block=True)
    _failed_once(checkpoints, folder, told, os.strerror(errno.EIO))
    _saves_again(checkpoints, folder)


def test_a_read_only_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "none", str(disk)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small filesystem takes root")
    try:
        told = _Told()
        checkpoints = Checkpoints(disk / "checkpoints", report=told)
        checkpoints.save(make_state(10), step=10, block=True)
        subprocess.run([str(mount), "-o", "remount,ro", str(disk)], check=True)
        assert not checkpoints.save(make_state(20), step=20, block=True)
        _failed_once(checkpoints, disk / "checkpoints", told, os.strerror(errno.EROFS))
        subprocess.run([str(mount), "-o", "remount,rw", str(disk)], check=True)
        _saves_again(checkpoints, disk / "checkpoints")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_is_gone_and_blocked(started: tuple[Checkpoints, Path, _Told], tmp_path: Path) -> None:
    """What a user without root meets: the name leads nowhere one can write."""
    checkpoints, folder, told = started
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.write_text("a file where the folder was")
    assert not checkpoints.save(make_state(20), step=20, block=True)
    folder.unlink()
    moved.rename(folder)
    _failed_once(checkpoints, folder, told, "exists")
    _saves_again(checkpoints, folder)
