"""Finding images: links, pipes, unreadable folders and odd names are named, and no image counts twice."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.folder import scan
from vitaos.data.folder.decode import read_image
from vitaos.data.folder.scan import list_files, scan_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images, one of them in a folder of its own."""
    for name in ("cat", "dog"):
        for place in ("0.png", "1.png", "more/2.png"):
            path = tmp_path / "data" / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "data"


def deny(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make a folder unreadable, for the superuser too."""
    original = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "loop": (lambda root: (root / "cat" / "more" / "loop").symlink_to(root / "cat"), "the same folder as cat"),
    "upwards": (lambda root: (root / "cat" / "up").symlink_to(root.parent), "which holds the whole data"),
    "root": (lambda root: (root / "all").symlink_to(root), "which holds the whole data"),
    "class": (lambda root: (root / "dog" / "cats").symlink_to(root / "cat"), "the same folder as cat"),
    "itself": (lambda root: (root / "cat" / "x.png").symlink_to("x.png"), "a link to nothing"),
    "dangling": (lambda root: (root / "cat" / "x.png").symlink_to(root / "gone.png"), "a link to nothing"),
    "class gone": (lambda root: (root / "eel").symlink_to(root / "gone"), "a link to nothing"),
    "pipe": (lambda root: os.mkfifo(root / "cat" / "x.png"), "not a regular file"),
    "linked pipe": (
        lambda root: (os.mkfifo(root.parent / "pipe"), (root / "cat" / "x.png").symlink_to(root.parent / "pipe")),
        "not a regular file",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_image_is_named_or_left_out(root: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = ODD[kind]
    make(root)
    with pytest.raises(ValueError, match=rf"1 file\(s\) or folder\(s\) below .* are not images: .*{reason}"):
        scan_folder(root)
    folder = scan_folder(root, on_bad="skip")
    assert folder.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert reason in caplog.text
    every, unusable = list_files(root)
    assert (len(every), len(unusable)) == (6, 1)


def test_links_to_files_and_folders_elsewhere_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "dog").symlink_to(root / "dog")
    (tmp_path / "linked" / "fox").mkdir()
    (tmp_path / "linked" / "fox" / "0.png").symlink_to(root / "cat" / "0.png")
    folder = scan_folder(tmp_path / "linked")
    assert folder.files.tolist() == [b"dog/0.png", b"dog/1.png", b"dog/more/2.png", b"fox/0.png"]


def test_a_folder_that_cannot_be_opened_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, "dog/more")
    with pytest.raises(ValueError, match=r"dog/more \(cannot be opened: Permission denied\)"):
        scan_folder(root)
    assert len(scan_folder(root, on_bad="skip")) == 5
    deny(monkeypatch, "cat")
    with pytest.raises(ValueError, match=r"1 class folder\(s\).*hold no image: cat.*cat \(cannot be opened"):
        scan_folder(root, on_bad="skip")


def test_a_file_that_cannot_be_opened_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def opened(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ValueError, match=r"cat/1\.png \(cannot be read: Permission denied\)"):
        scan_folder(root)
    assert len(scan_folder(root, on_bad="skip")) == 4


@pytest.mark.parametrize("limit", [0, scan.SIGNATURE_LIMIT])
@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "TGA"])
def test_formats_are_taken_whatever_the_number_of_files(
    root: Path, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SIGNATURE_LIMIT", limit)
    Image.new("RGB", (4, 4), (200, 200, 200)).save(root / "cat" / "x.jpg", format=kind)
    folder = scan_folder(root)
    assert len(folder) == 7
    assert np.abs(np.asarray(folder.read(folder.files.tolist().index(b"cat/x.jpg"))).astype(int) - 200).max() <= 2


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    gray_HW = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    (tmp_path / "x.pgm").write_bytes(b"P5 16 16 65535\n" + gray_HW.astype(">u2").tobytes())
    for name in ("x.png", "x.tif"):
        Image.fromarray(gray_HW).save(tmp_path / name)
    for path in tmp_path.iterdir():
        assert np.array_equal(np.asarray(read_image(path))[..., 0], gray_HW >> 8), path.name


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "integer"), (np.float32, "floating")])
def test_gray_values_without_a_white_are_refused(tmp_path: Path, dtype: Any, kind: str) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(CorruptImageError, match=rf"x\.tif is not a readable image: 32-bit {kind} gray values"):
        read_image(tmp_path / "x.tif")


def test_an_image_needs_no_suffix_where_its_bytes_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "cat" / "0.png").rename(root / "cat" / "zero")
    assert b"cat/zero" in scan_folder(root).files.tolist()
    (root / "cat" / "notes").write_text("no image")
    with pytest.raises(ValueError, match="not images: cat/notes"):
        scan_folder(root)
    (root / "cat" / "notes").unlink()
    monkeypatch.setattr(scan, "SIGNATURE_LIMIT", 3)
    with pytest.raises(ValueError, match="not images: cat/zero"):
        scan_folder(root)
