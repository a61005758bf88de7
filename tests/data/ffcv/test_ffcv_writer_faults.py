"""Writing that fails: workers that die, a full disk, and what killed writers leave."""

import errno
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos.data.ffcv import records as ffcv_records
from vitaos.data.ffcv.encode import Record
from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.writer import write_beton

RAW = WriteOptions("raw")


def test_a_worker_that_dies_is_an_error_and_leaves_nothing(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ffcv_records.encode

    def dying(path: Path, index: int, options: WriteOptions) -> Record:
        if index == 40:
            os._exit(9)
        return original(path, index, options)

    monkeypatch.setattr(ffcv_records, "encode", dying)
    start = time.monotonic()
    with pytest.raises(ValueError, match="died with exit code 9"):
        write_beton(photo_folder / "train", tmp_path / "x.beton", RAW, workers=2)
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_fails_is_an_error_with_its_trace(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, index: int, options: WriteOptions) -> Record:
        raise MemoryError(f"no room for {path.name}")

    monkeypatch.setattr(ffcv_records, "encode", failing)
    with pytest.raises(RuntimeError, match=r"a writing process failed:(.|\n)*no room for"):
        write_beton(photo_folder / "train", tmp_path / "x.beton", RAW, workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_said_as_the_system_says_it(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def full(path: Path, index: int, options: WriteOptions) -> Record:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ffcv_records, "encode", full)
    before = set(Path("/dev/shm").iterdir())
    with pytest.raises(OSError, match="No space left on device"):
        write_beton(photo_folder / "train", tmp_path / "x.beton", RAW, workers=workers)
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) <= before


@pytest.mark.parametrize("name", ["x.beton", "x[500].beton"])
def test_leftovers_of_a_killed_writer_are_removed(photo_folder: Path, tmp_path: Path, name: str) -> None:
    host = os.uname().nodename
    gone, alive = (tmp_path / f".{name}.{host}.{process}.writing" for process in (999_999_999, os.getppid()))
    for leftover in (gone, alive):
        leftover.write_bytes(b"half")
    write_beton(photo_folder / "val", tmp_path / name, RAW)
    assert not gone.exists()
    assert alive.exists()
