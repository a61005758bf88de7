"""A beton that somebody writes over while a run reads it."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from vitaos.data import DataSource, ReadSettings, build_loaders
from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.writer import write_beton


def test_a_beton_that_is_written_over_is_said_and_a_moved_one_is_not(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        write_beton(photo_folder / part, tmp_path / f"{part}.beton", WriteOptions("raw", max_resolution=32))
    source = DataSource(kind="ffcv", root=tmp_path)
    loaders = build_loaders(source, ReadSettings(img_size=32, workers=1), batch_size=4, seed=0)
    train = tmp_path / "train.beton"
    with caplog.at_level(logging.WARNING, logger="vitaos"):
        list(loaders.train.epoch(0))
        assert caplog.messages == []
        os.utime(train)
        list(loaders.train.epoch(1))
        list(loaders.train.epoch(2))
        assert len(caplog.messages) == 1
        assert f"{train} was written to while this run reads it" in caplog.messages[0]
        shutil.copy(train, tmp_path / "new")
        (tmp_path / "new").replace(train)
        list(loaders.train.epoch(3))
        assert len(caplog.messages) == 1
    os.truncate(tmp_path / "val.beton", 0)
    with pytest.raises(ValueError, match=r"0 bytes now .* written over in place"):
        list(loaders.val)
    loaders.close()


def test_one_that_was_read_into_memory_may_be_written_over(photo_folder: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_beton(photo_folder / part, tmp_path / f"{part}.beton", WriteOptions("raw", max_resolution=32))
    source = DataSource(kind="ffcv", root=tmp_path)
    loaders = build_loaders(source, ReadSettings(img_size=32, workers=1, in_memory=True), batch_size=4, seed=0)
    before = [batch.images for batch in loaders.val]
    for part in ("train", "val"):
        os.truncate(tmp_path / f"{part}.beton", 0)
    list(loaders.train.epoch(0))
    assert all(torch.equal(batch.images, images) for batch, images in zip(loaders.val, before, strict=True))
    loaders.close()
