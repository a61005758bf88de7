"""Building loaders from settings: defaults, layouts, and messages for what is missing or does not fit."""

import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vitaos.data import DataSource, ReadSettings, build_eval_loader, build_loaders, default_workers
from vitaos.data.augment.settings import DEIT_AUGMENT
from vitaos.data.crops import CropSettings
from vitaos.data.ffcv.native import native

READ = ReadSettings(img_size=32, workers=0)


def test_a_folder_with_test_instead_of_val(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(photo_folder / "train")
    (tmp_path / "test").symlink_to(photo_folder / "val")
    loaders = build_loaders(DataSource("folder", tmp_path), READ, batch_size=4)
    assert (loaders.num_classes, loaders.val.num_images, loaders.train.images_per_epoch) == (3, 7, 51)
    assert next(iter(loaders.val)).images.shape == (4, 3, 32, 32)
    loaders.close()


def test_evaluation_alone_needs_no_training_part(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(photo_folder / "val")
    for where in ({"root": tmp_path}, {"val": tmp_path / "val"}):
        loader = build_eval_loader(DataSource("folder", **where), READ, batch_size=4)
        assert sum(len(batch.targets) for batch in loader) == 7


def test_classes_must_agree(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "val")
    (tmp_path / "val" / "flower").rename(tmp_path / "val" / "tree")
    with pytest.raises(ValueError, match=r"differ: only in the first: \['flower'\]; only in the second: \['tree'\]"):
        build_loaders(DataSource("folder", train=photo_folder / "train", val=tmp_path / "val"), READ, batch_size=4)
    with pytest.raises(ValueError, match="holds 3 classes, but this data must have 1000"):
        build_loaders(DataSource("folder", photo_folder), READ, batch_size=4, expected_classes=1000)


def test_missing_data_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.root=FOLDER.*Run prepare"):
        build_loaders(DataSource("folder", prepare="Run prepare"), READ, batch_size=4)
    with pytest.raises(ValueError, match=r"val does not exist\. Run prepare"):
        build_loaders(DataSource("folder", tmp_path, prepare="Run prepare"), READ, batch_size=4)
    with pytest.raises(ValueError, match=r"val\.beton does not exist.*write_ffcv\.py source=DIR out="):
        build_loaders(DataSource("ffcv", tmp_path), READ, batch_size=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "lmdb"}, "kind must be one of folder, ffcv, digits"),
        ({"loader": "dali"}, "loader must be one of ffcv, folder"),
        ({"resize": "nearest"}, "resize must be one of bicubic, area"),
        ({"scale": (0.5, 0.1)}, "crop_scale must lie in"),
        ({"ratio": (0.5, float("inf"))}, "crop_ratio above 0"),
        ({"kind": "ffcv", "timm": DEIT_AUGMENT}, "augment=timm runs on class folders alone"),
        ({"batch_size": 100}, "an epoch of this dataset has only 51: lower batch_size"),
        ({"eval_resize": 16}, "eval_resize 16 is smaller than the image size 32"),
        ({"img_size": 0}, "img_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"prefetch": 0}, "prefetch must be at least 1"),
        ({"workers": -2}, "workers must be at least 0, got -2"),
        ({"on_bad": "ignore"}, "on_bad must be one of fail, skip"),
    ],
)
def test_settings_that_cannot_be(photo_folder: Path, wrong: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"kind": "folder", "root": photo_folder, "img_size": 32, "workers": 0, **wrong}

    def taken(kind: type) -> Any:
        names = [field.name for field in fields(kind) if field.name in settings]
        return {name: settings.pop(name) for name in names}

    with pytest.raises(ValueError, match=message):
        build_loaders(
            DataSource(**taken(DataSource)),
            ReadSettings(**taken(ReadSettings)),
            crop=CropSettings(**taken(CropSettings)),
            **{"batch_size": 4, **settings},  # type: ignore[arg-type]
        )


def test_without_ffcv_the_message_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.cache_clear()  # another test may have loaded the library
    monkeypatch.setitem(sys.modules, "ffcv", None)
    for source in (DataSource("digits", tmp_path), DataSource("ffcv", tmp_path)):
        (tmp_path / "val.beton").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"scripts/setup\.sh installs it.*data=imagefolder.*data\.loader=folder"):
            build_loaders(source, READ, batch_size=4)
    loaders = build_loaders(DataSource("digits", tmp_path, loader="folder"), READ, batch_size=4)
    assert loaders.num_classes == 10


def test_workers_default_to_this_ranks_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert default_workers() == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert default_workers() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert default_workers() == 16
