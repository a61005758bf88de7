"""Batches from a process of their own: the pixels of the threads, errors that arrive, nothing left behind."""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos.data.crops import CropSettings
from vitaos.data.ffcv.loader import FfcvTrainLoader
from vitaos.data.ffcv.process_pool import LoaderProcessError, ProcessPool
from vitaos.data.ffcv.reader import open_beton
from vitaos.data.order import TrainOrder


def train_loader(path: Path, *, batch_size: int = 6, own_process: bool) -> FfcvTrainLoader:
    beton = open_beton(path)
    order = TrainOrder(len(beton), batch_size, 2, 0, 1, seed=7, repeats=1)
    return FfcvTrainLoader(beton, order, CropSettings(), img_size=48, workers=2, on_bad="skip", own_process=own_process)


def read_epochs(loader: FfcvTrainLoader, epochs: range) -> None:
    for epoch in epochs:
        list(loader.epoch(epoch))


def process_of(loader: FfcvTrainLoader) -> int:
    assert isinstance(loader._pool, ProcessPool)
    return loader._pool._process.pid


def test_the_process_gives_what_threads_give_and_its_death_is_told(photo_betons: Path) -> None:
    before = set(threading.enumerate())
    loader = train_loader(photo_betons / "train.beton", own_process=True)
    threads = train_loader(photo_betons / "train.beton", own_process=False)
    whole = list(threads.epoch(2))
    threads.close()
    next(loader.epoch(0))  # an epoch that is left
    for step in (0, 3):
        made = list(loader.epoch(2, start_step=step))
        assert len(made) == len(whole) - 2 * step
        assert len({batch.images.data_ptr() for batch in made}) == len(made)
        for one, other in zip(made, whole[2 * step :], strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
            assert one.images.stride() == other.images.stride()
    os.kill(process_of(loader), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(LoaderProcessError, match=r"status -9 \(killed"):
            read_epochs(loader, range(20))
    loader.close()
    assert set(threading.enumerate()) <= before


def test_bad_records_are_told_and_errors_arrive(
    photo_betons: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in ("", ".json"):
        shutil.copy(photo_betons / f"val.beton{suffix}", tmp_path / f"val.beton{suffix}")
    starts = open_beton(tmp_path / "val.beton")._starts

    def damage(record: int) -> None:
        with (tmp_path / "val.beton").open("r+b") as file:
            file.seek(int(starts[record]) + 200)
            file.write(b"\xff\xd9" * 400)

    damage(3)
    loader = train_loader(tmp_path / "val.beton", batch_size=3, own_process=True)
    list(loader.epoch(0))
    list(loader.epoch(1))
    assert loader.bad.indices == [3]
    assert caplog.text.count("image 3 replaced") == 1
    damage(5)
    with pytest.raises(ValueError, match="2 of 7 images do not decode"):
        read_epochs(loader, range(2, 9))
    pid = process_of(loader)
    loader.close()
    loader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ValueError, match="closed"):
        next(loader.epoch(0))
