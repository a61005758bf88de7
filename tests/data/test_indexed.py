"""Tar archives, Hugging Face datasets, lists of classes: batches, order, resumption and refusals of class folders."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitaos.data import DataSource, ReadSettings, build_eval_loader, build_loaders
from vitaos.data.classes import read_classes
from vitaos.data.fingerprint import differences

CLASSES = ("n10", "n2", "n9")  # timm would count n2, n9, n10


def picture(part: str, name: str, number: int) -> bytes:
    draws = np.random.default_rng([len(part), CLASSES.index(name), number])
    buffer = io.BytesIO()
    Image.fromarray(draws.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures() -> Iterator[tuple[str, str, str, bytes]]:
    for part, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            for number in range(count):
                yield part, name, f"{number}.png", picture(part, name, number)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in class folders, in two archives, in an archive a class, and as Hugging Face datasets."""
    import datasets  # noqa: PLC0415

    base = tmp_path_factory.mktemp("indexed")
    rows: dict[str, dict[str, list[Any]]] = {part: {"image": [], "label": []} for part in ("train", "val")}
    for part, name, file, data in pictures():
        for path in (base / "folder" / part / name, base / "tars" / part):
            path.mkdir(parents=True, exist_ok=True)
        (base / "folder" / part / name / file).write_bytes(data)
        rows[part]["image"].append({"bytes": data, "path": None})
        rows[part]["label"].append(CLASSES.index(name))
    (base / "tar").mkdir()
    for part in ("train", "val"):
        with tarfile.open(base / "tar" / f"{part}.tar", "w") as archive:
            for name in reversed(CLASSES):  # in another order
                archive.add(base / "folder" / part / name, arcname=name)
        for name in CLASSES:
            with tarfile.open(base / "tars" / part / f"{name}.tar", "w") as archive:
                for file in sorted((base / "folder" / part / name).iterdir(), reverse=True):
                    archive.add(file, arcname=file.name)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    parts = {part: datasets.Dataset.from_dict(columns, features=features) for part, columns in rows.items()}
    datasets.DatasetDict({"train": parts["train"], "test": parts["val"]}).save_to_disk(str(base / "saved"))
    (base / "parquet").mkdir()
    for part, name in (("train", "train"), ("val", "validation")):
        parts[part].to_parquet(str(base / "parquet" / f"{name}-00000-of-00001.parquet"))
    return {path.name: path for path in base.iterdir()}


KINDS = {"folder": "folder", "tar": "tar", "tars": "tar", "saved": "huggingface", "parquet": "huggingface"}


def loaders(roots: dict[str, Path], name: str, *, workers: int = 0, **keywords: Any) -> Any:
    source = DataSource(kind=KINDS[name], root=roots[name], **keywords)  # type: ignore[arg-type]
    return build_loaders(source, ReadSettings(img_size=32, workers=workers), batch_size=4, seed=3)


def assert_same_batches(one: Any, other: Any) -> None:
    for first, second in zip(one, other, strict=True):
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.fixture(autouse=True)
def no_cache_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", ["tar", "tars", "saved", "parquet"])
def test_batches_and_resumption_are_those_of_class_folders(roots: dict[str, Path], name: str) -> None:
    expected, found = loaders(roots, "folder"), loaders(roots, name)
    assert found.class_names == expected.class_names == list(CLASSES)
    for epoch in (0, 1):
        assert_same_batches(expected.train.epoch(epoch), found.train.epoch(epoch))
    assert_same_batches(expected.train.epoch(1, 2), found.train.epoch(1, 2))
    assert_same_batches(expected.val, found.val)
    again = loaders(roots, name)
    assert differences(found.fingerprint, again.fingerprint) == []
    fewer = loaders(roots, name, classes=("n10", "n9"))
    assert differences(found.fingerprint, fewer.fingerprint)
    assert fewer.class_names == ["n10", "n9"]
    assert_same_batches(fewer.val, loaders(roots, "folder", classes=("n10", "n9")).val)
    part = build_eval_loader(
        DataSource(kind=KINDS[name], root=roots[name]),
        ReadSettings(img_size=32, workers=0),
        batch_size=5,
        part="train",  # type: ignore[arg-type]
    )
    assert part.num_images == 18


def test_worker_processes_read_one_archive_at_once(roots: dict[str, Path]) -> None:
    expected, found = loaders(roots, "tar"), loaders(roots, "tar", workers=2)
    assert_same_batches(expected.train.epoch(0), found.train.epoch(0))
    found.close()


def test_other_images_under_the_same_names_are_other_data(roots: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(roots["folder"], tmp_path / "folder")
    one, other = (tmp_path / "folder" / "train" / "n2" / f"{number}.png" for number in (0, 1))
    one.write_bytes(other.read_bytes())
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            for name in CLASSES:
                archive.add(tmp_path / "folder" / part / name, arcname=name)
    changed = loaders({"tar": tmp_path}, "tar").fingerprint
    assert differences(loaders(roots, "tar").fingerprint, changed) == [
        "train: files of the same names and classes, but with other content"
    ]


def test_refusals(roots: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 of data\.classes: n3"):
        loaders(roots, "tar", classes=("n10", "n3"))
    with pytest.raises(ValueError, match="does not exist"):
        loaders({"saved": tmp_path / "gone"}, "saved")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no Hugging Face dataset"):
        loaders({"saved": tmp_path / "empty"}, "saved")
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"val holds no images in tar archives"):
        loaders({"tar": tmp_path}, "tar")
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        member = tarfile.TarInfo("n2/broken.png")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"none"))
    shutil.copy(tmp_path / "train.tar", tmp_path / "val.tar")
    broken = build_eval_loader(DataSource("tar", root=tmp_path), ReadSettings(img_size=32, workers=0), batch_size=1)
    with pytest.raises(ValueError, match=r"n2/broken\.png \(image 0 of .*val\.tar\) is not a readable image"):
        list(broken)


def test_archives_hold_all_the_images_that_class_folders_hold(tmp_path: Path) -> None:
    suffixes = ("jpg", "webp", "bmp", "tiff", "gif", "ppm", "PNG")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for suffix in suffixes:
                Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"x.{suffix}")
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            archive.add(tmp_path / part, arcname=".")
    assert loaders({"tar": tmp_path}, "tar").val.num_images == 2 * len(suffixes)


@pytest.mark.parametrize("second", ["top/cat/more", "other/cat", "top"])
def test_folders_that_timm_would_make_classes_of_are_refused(tmp_path: Path, second: str) -> None:
    picture_of_one = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture_of_one, "PNG")
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            for folder in ("top/cat", "top/dog", second):
                member = tarfile.TarInfo(f"{folder}/1.png")
                member.size = len(picture_of_one.getvalue())
                archive.addfile(member, io.BytesIO(picture_of_one.getvalue()))
    with pytest.raises(ValueError, match="both hold images; expected one folder a class"):
        loaders({"tar": tmp_path}, "tar")


def test_one_split_is_not_both_parts(roots: dict[str, Path], tmp_path: Path) -> None:
    """What ``load_dataset(..., split="train").save_to_disk`` gives, and a part of one without a name."""
    import datasets  # noqa: PLC0415

    both = datasets.load_from_disk(str(roots["saved"]))
    both["train"].save_to_disk(str(tmp_path / "train"))
    both["test"].save_to_disk(str(tmp_path / "val"))
    for part in ("train", "val"):
        with pytest.raises(ValueError, match=r"holds one split .* data\.train=DIR data\.val=DIR"):
            loaders({"saved": tmp_path / part}, "saved")
    source = DataSource(kind="huggingface", train=tmp_path / "train", val=tmp_path / "val")
    found = build_loaders(source, ReadSettings(img_size=32, workers=0), batch_size=4, seed=3)
    assert_same_batches(found.val, loaders(roots, "saved").val)


def test_lists_of_classes(tmp_path: Path) -> None:
    assert {name: len(read_classes(name)) for name in ("imagenet100", "cifar100", "imagenet22k")} == {
        "imagenet100": 100,
        "cifar100": 100,
        "imagenet22k": 21841,
    }
    assert set(read_classes("imagenet100")) < set(read_classes("imagenet"))
    (tmp_path / "mine.txt").write_text("b\na\n")
    assert read_classes(str(tmp_path / "mine.txt")) == ["b", "a"]
    with pytest.raises(ValueError, match=r"no such list.*imagenet100"):
        read_classes("imagenet10")
