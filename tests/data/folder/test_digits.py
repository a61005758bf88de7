"""The embedded dataset: written once, by whoever is first, and the same through both loaders."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vitaos.data import DataSource, ReadSettings, build_loaders
from vitaos.data.folder.digits import CLASS_NAMES, VAL_PER_CLASS, prepare_digits


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


def test_the_files_are_the_real_digits_split_evenly(digits_root: Path) -> None:
    finished = prepare_digits(digits_root)
    digits = load_digits()
    found = {part: sorted((finished / part).glob("*/*.png")) for part in ("train", "val")}
    assert len(found["train"]) + len(found["val"]) == len(digits.target)
    assert Counter(path.parent.name for path in found["val"]) == dict.fromkeys(CLASS_NAMES, VAL_PER_CLASS)
    for path in found["train"][::200] + found["val"][::50]:
        number = int(path.stem)
        assert int(path.parent.name) == digits.target[number]
        assert np.abs(np.asarray(Image.open(path)) / (255 / 16) - digits.images[number]).max() < 0.04


def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    writers = [threading.Thread(target=prepare_digits, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits-1"]
    stamp = (tmp_path / "digits-1").stat().st_mtime_ns
    prepare_digits(tmp_path)
    assert (tmp_path / "digits-1").stat().st_mtime_ns == stamp


def test_ffcv_gives_the_pixels_of_the_files(digits_root: Path) -> None:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    built = [
        build_loaders(
            DataSource("digits", digits_root, loader=loader),
            ReadSettings(img_size=16, workers=0),
            eval_resize=16,
            batch_size=32,
            repeats=3,
        )
        for loader in ("ffcv", "folder")
    ]
    assert built[0].class_names == built[1].class_names == CLASS_NAMES
    assert built[0].num_classes == 10
    for parts in (
        [loaders.train.epoch(2, start_step=30) for loaders in built],
        [loaders.val for loaders in built],
    ):
        for ffcv, folder in zip(*parts, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ffcv, folder, strict=True))
    for loaders in built:
        loaders.close()
    assert sorted(entry.name for entry in digits_root.iterdir()) == ["digits-1", "digits-1-ffcv"]
