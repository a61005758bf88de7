"""A dataset is known by its classes, counts and order of names, wherever it lies."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vitaos.data.fingerprint import differences
from vitaos.data.folder.scan import scan_folder


def test_a_copy_elsewhere_is_the_same_data(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "copy")
    there, here = (scan_folder(root).fingerprint() for root in (photo_folder / "val", tmp_path / "copy"))
    assert differences({"train": there, "val": there}, {"train": here, "val": here}) == []


def _swap(one: Path, other: Path) -> None:
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)


def test_a_fingerprint_of_before_the_content_was_looked_at_still_agrees(photo_folder: Path) -> None:
    here = scan_folder(photo_folder / "val").fingerprint()
    there = {key: value for key, value in here.items() if key != "sample"}
    assert differences({"train": there, "val": there}, {"train": here, "val": here}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "flower").rename(root / "a-flower"),
            r"only there: \['flower'\]; only here: \['a-flower'\]",
        ),
        (lambda root: shutil.copytree(root / "china", root / "new"), "3 classes there, 4 here"),
        (lambda root: (root / "china" / "00.jpg").unlink(), "7 images there, 6 here .class china: 3 there, 2 here"),
        (
            lambda root: (root / "china" / "00.jpg").rename(root / "china" / "99.jpg"),
            "other names or order",
        ),
        (lambda root: _swap(root / "china" / "00.jpg", root / "flower" / "00.jpg"), "with other content"),
    ],
)
def test_changes_are_named(photo_folder: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "val"
    shutil.copytree(photo_folder / "val", root)
    there = scan_folder(root).fingerprint()
    change(root)
    here = scan_folder(root).fingerprint()
    (found,) = differences({"train": there, "val": there}, {"train": there, "val": here})
    assert found.startswith("val: ")
    assert re.search(message, found)
