"""Writing: what is stored, what is left out, and that nothing unfinished looks finished."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.reader import JPEG_MODE, RAW_MODE, open_beton
from vitaos.data.ffcv.writer import write_beton
from vitaos.data.fingerprint import differences
from vitaos.data.folder.scan import list_files

RAW = WriteOptions("raw")


@pytest.fixture
def spoilt_folder(photo_folder: Path, tmp_path: Path) -> Path:
    """The photographs with two files that are not images and one cut short."""
    root = tmp_path / "spoilt"
    shutil.copytree(photo_folder / "train", root)
    (root / "china" / "03.jpg").write_bytes((root / "china" / "03.jpg").read_bytes()[:200])
    (root / "flower" / "05.jpg").write_text("not an image")
    (root / "mixed" / "notes.txt").write_text("nor this")
    return root


def coverage(pixels: int, fewer: int) -> np.ndarray:
    """(fewer, pixels) share of each pixel in each larger pixel that covers it."""
    edges = np.linspace(0, pixels, fewer + 1)
    starts = np.arange(pixels)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(shared, 0, None) * fewer / pixels


def test_raw_records_are_the_files_pixels(photo_folder: Path, tmp_path: Path) -> None:
    folder, _ = list_files(photo_folder / "train")
    for workers in (0, 2):
        report = write_beton(folder.root, tmp_path / f"{workers}.beton", RAW, workers=workers)
        assert (report.num_images, report.unreadable, report.already_there) == (51, [], False)
        beton = open_beton(tmp_path / f"{workers}.beton")
        assert beton.class_names == ["china", "flower", "mixed"]
        assert np.array_equal(beton.targets, folder.targets)
        assert set(beton._modes.tolist()) == {RAW_MODE}
        for index in range(len(folder)):
            assert np.array_equal(beton.image(index), np.asarray(folder.read(index)))


def test_the_manifest_says_what_and_how(photo_folder: Path, tmp_path: Path) -> None:
    write_beton(photo_folder / "val", tmp_path / "val.beton", WriteOptions("jpg", quality=80))
    manifest = json.loads((tmp_path / "val.beton.json").read_text())
    assert manifest["class_names"] == ["china", "flower", "mixed"]
    assert manifest["class_counts"] == [3, 2, 2]
    assert manifest["options"] == {"mode": "jpg", "max_resolution": 500, "quality": 80, "fraction": 0.5}
    assert manifest["source"] == str((photo_folder / "val").resolve())
    assert manifest["size"] == (tmp_path / "val.beton").stat().st_size


def test_large_images_are_bounded_and_small_jpegs_keep_their_bytes(
    photo_folder: Path, tmp_path: Path, photographs: list[np.ndarray]
) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    small = photo_folder / "val" / "china" / "00.jpg"
    shutil.copy(small, tmp_path / "in" / "a" / "0.jpg")
    Image.fromarray(photographs[0]).save(tmp_path / "in" / "a" / "1.png")
    write_beton(tmp_path / "in", tmp_path / "x.beton", WriteOptions("jpg", max_resolution=320, quality=98))
    beton = open_beton(tmp_path / "x.beton")
    start, size = int(beton._starts[0]), int(beton._sizes[0])
    assert (tmp_path / "x.beton").read_bytes()[start : start + size] == small.read_bytes()
    assert (int(beton.heights[1]), int(beton.widths[1])) == (214, 320)
    write_beton(tmp_path / "in", tmp_path / "raw.beton", WriteOptions("raw", max_resolution=320))
    shrunk = np.einsum("hH,wW,HWc->hwc", coverage(427, 214), coverage(640, 320), photographs[0], optimize=True)
    assert np.abs(open_beton(tmp_path / "raw.beton").image(1) - shrunk).max() <= 1


def test_a_jpeg_that_ffcvs_decoder_refuses_is_encoded_anew(photo_folder: Path, tmp_path: Path) -> None:
    """Pillow passes over stray bytes before a marker, libjpeg-turbo's own interface does not."""
    plain = (photo_folder / "val" / "china" / "00.jpg").read_bytes()
    (tmp_path / "in" / "a").mkdir(parents=True)
    for name, content in (("0.jpg", plain), ("1.jpg", plain[:-2] + bytes(20) + plain[-2:])):
        (tmp_path / "in" / "a" / name).write_bytes(content)
    assert write_beton(tmp_path / "in", tmp_path / "x.beton", WriteOptions("jpg", quality=98)).unreadable == []
    beton = open_beton(tmp_path / "x.beton")
    kept, anew = beton.image(0).astype(np.int64), beton.image(1).astype(np.int64)
    assert np.abs(kept - anew).mean() < 2


def test_a_source_of_other_classes_is_not_taken_for_the_same(photo_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(photo_folder / "val", source)
    write_beton(source, tmp_path / "x.beton", RAW)
    (source / "flower").rename(source / "plant")
    with pytest.raises(ValueError, match="there already, written with other classes"):
        write_beton(source, tmp_path / "x.beton", RAW)
    (source / "plant").rename(source / "flower")
    (source / "china" / "00.jpg").rename(source / "flower" / "99.jpg")
    with pytest.raises(ValueError, match="other counts of them: remove it"):
        write_beton(source, tmp_path / "x.beton", RAW)


def test_a_damaged_beton_is_not_taken_for_a_finished_one(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    write_beton(photo_folder / "val", out, RAW)
    place = open_beton(out).sections.metadata.start
    content = out.read_bytes()
    out.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"metadata differs from what was written.*remove it and write it again.*raw"):
        write_beton(photo_folder / "val", out, RAW)


def test_names_need_not_be_unicode(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "\udcff class"
    folder.mkdir(parents=True)
    shutil.copy(photo_folder / "val" / "china" / "00.jpg", folder / "\udce9.jpg")
    (folder / "\udcfe.jpg").write_text("not an image")
    report = write_beton(tmp_path / "in", tmp_path / "x.beton", RAW, on_bad="skip")
    assert report.unreadable[0].reason == "no image format that Pillow knows"
    listed = (tmp_path / "x.beton.unreadable.txt").read_bytes()
    assert listed.endswith(b"\xfe.jpg\tno image format that Pillow knows\n")
    assert open_beton(tmp_path / "x.beton").class_names == ["\udcff class"]


def test_a_proportion_is_the_same_in_every_writing(photo_folder: Path, tmp_path: Path) -> None:
    options = WriteOptions("proportion", fraction=0.3)
    modes = []
    for workers in (0, 2):
        write_beton(photo_folder / "train", tmp_path / f"{workers}.beton", options, workers=workers)
        modes.append(open_beton(tmp_path / f"{workers}.beton")._modes)
    assert np.array_equal(*modes)
    assert 5 <= int((modes[0] == JPEG_MODE).sum()) <= 25


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_listed_and_left_out(spoilt_folder: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out" / "x.beton"
    with pytest.raises(ValueError, match=r"3 of 52 files do not decode, the first is .*china/03\.jpg.*on_bad=skip"):
        write_beton(spoilt_folder, out, RAW, workers=workers)
    listed = (tmp_path / "out" / "x.beton.unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0].rsplit("/", 2)[1:] for line in listed] == [
        ["china", "03.jpg"], ["flower", "05.jpg"], ["mixed", "notes.txt"],
    ]  # fmt: skip
    assert all(line.split("\t")[1] for line in listed)
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["x.beton.unreadable.txt"]
    report = write_beton(spoilt_folder, out, RAW, workers=workers, on_bad="skip")
    assert (report.num_images, len(report.unreadable)) == (49, 3)
    beton = open_beton(out)
    good = [index for index, name in enumerate(list_files(spoilt_folder)[0].files.tolist()) if name.decode() not in
            ("china/03.jpg", "flower/05.jpg", "mixed/notes.txt")]  # fmt: skip
    folder, _ = list_files(spoilt_folder)
    assert np.array_equal(beton.targets, folder.targets[good])
    for place, index in enumerate(good):
        assert np.array_equal(beton.image(place), np.asarray(folder.read(index)))


def test_where_nothing_decodes_everything_is_listed(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.jpg").write_text("no image")
    with pytest.raises(
        ValueError, match=r"none of the 1 files decodes, the first is .*0\.jpg.*x\.beton\.unreadable\.txt"
    ):
        write_beton(tmp_path / "in", tmp_path / "x.beton", RAW, on_bad="skip")
    assert (tmp_path / "x.beton.unreadable.txt").read_text().count("0.jpg\t") == 1
    assert not list(tmp_path.glob("*.beton")) + list(tmp_path.glob(".*"))


def test_a_finished_beton_is_not_written_again(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.beton"
    write_beton(photo_folder / "val", out, RAW)
    stamp = out.stat().st_mtime_ns
    assert write_beton(photo_folder / "val", out, RAW).already_there
    assert out.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"there already, written with mode=raw: remove it"):
        write_beton(photo_folder / "val", out, WriteOptions("jpg"))
    with pytest.raises(ValueError, match=r"there already, written with source=.*val"):
        write_beton(photo_folder / "train", out, RAW)
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(ValueError, match="there already but damaged"):
        write_beton(photo_folder / "val", out, RAW)


def test_a_file_that_is_written_again_is_the_same_data(photo_folder: Path, tmp_path: Path) -> None:
    """Whichever worker was faster: so a run goes on after the repair that a damaged file is answered with."""
    written = []
    for workers in (0, 1, 3):
        out = tmp_path / str(workers) / "x.beton"
        write_beton(photo_folder / "train", out, RAW, workers=workers)
        written.append(open_beton(out).fingerprint())
    assert written[0] == written[1] == written[2]
    for part, options in (("val", RAW), ("train", WriteOptions(mode="jpg"))):
        out = tmp_path / f"{part}-{options.mode}.beton"
        write_beton(photo_folder / part, out, options)
        assert open_beton(out).fingerprint()["sha256"] != written[0]["sha256"]


@pytest.mark.parametrize("change", ["content", "name"])
def test_images_that_changed_since_are_not_taken_for_those_written(
    photo_folder: Path, tmp_path: Path, change: str
) -> None:
    source, out = tmp_path / "source", tmp_path / "x.beton"
    shutil.copytree(photo_folder / "val", source)
    write_beton(source, out, RAW)
    assert write_beton(source, out, RAW).already_there
    first, second = sorted(path for path in source.rglob("*") if path.is_file())[:2]
    if change == "content":
        first.write_bytes(second.read_bytes())
    else:
        first.rename(first.with_stem("zzz"))
    with pytest.raises(ValueError, match=r"written with other images than .*source holds now"):
        write_beton(source, out, RAW)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "smart"}, "mode must be one of jpg, raw, proportion"),
        ({"quality": 0}, r"quality must be in 1\.\.100"),
        ({"fraction": 1.5}, r"fraction must be in 0\.\.1"),
        ({"max_resolution": -1}, "max_resolution must be 0"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WriteOptions(**wrong)  # type: ignore[arg-type]


def test_names_and_folders_that_cannot_be(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out must end in \.beton"):
        write_beton(photo_folder / "val", tmp_path / "x.bin")
    (tmp_path / "in" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"hold no image: a"):
        write_beton(tmp_path / "in", tmp_path / "x.beton")
    (tmp_path / "in" / "a" / "x.jpg").write_text("no")
    with pytest.raises(ValueError, match="none of the 1 files decodes"):
        write_beton(tmp_path / "in", tmp_path / "x.beton", on_bad="skip")


def test_what_is_no_file_is_listed_and_no_image_is_written_twice(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "in")
    (tmp_path / "in" / "china" / "loop").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "flower" / "pipe.jpg")
    out = tmp_path / "x.beton"
    with pytest.raises(ValueError, match=r"2 of 9 files do not decode, the first is .*china/loop .*holds the whole"):
        write_beton(tmp_path / "in", out)
    report = write_beton(tmp_path / "in", out, on_bad="skip")
    assert report.num_images == 7
    listed = (tmp_path / "x.beton.unreadable.txt").read_text()
    assert [Path(line.split("\t")[0]).name for line in listed.splitlines()] == ["loop", "pipe.jpg"]
    assert write_beton(tmp_path / "in", out, on_bad="skip").already_there


def test_a_beton_is_known_by_its_content_whatever_its_path(photo_folder: Path, tmp_path: Path) -> None:
    def fingerprint(source: Path, name: str, workers: int) -> dict[str, Any]:
        write_beton(source, tmp_path / name, RAW, workers=workers)
        return open_beton(tmp_path / name).fingerprint()

    first = fingerprint(photo_folder / "val", "first.beton", 1)
    assert fingerprint(photo_folder / "val", "again.beton", 2) == first
    changed = Path(shutil.copytree(photo_folder / "val", tmp_path / "changed"))
    Image.open(changed / "china" / "00.jpg").rotate(180).save(changed / "china" / "00.jpg")
    other = fingerprint(changed, "other.beton", 1)
    (difference,) = differences({"train": first, "val": first}, {"train": first, "val": other})
    assert difference == "val: as many images of the same classes, but other content of the betons"


def test_what_was_left_out_is_said_again(spoilt_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.beton"
    first = write_beton(spoilt_folder, out, RAW, on_bad="skip")
    again = write_beton(spoilt_folder, out, RAW, on_bad="skip")
    assert again.already_there
    assert sorted(again.unreadable) == sorted(first.unreadable)
    with pytest.raises(ValueError, match=r"without 3 file\(s\) that could not be read"):
        write_beton(spoilt_folder, out, RAW)


def test_no_file_is_written_among_the_images(photo_folder: Path) -> None:
    with pytest.raises(ValueError, match="lies in a class folder"):
        write_beton(photo_folder / "val", photo_folder / "val" / "china" / "out.beton", RAW)
    assert not list((photo_folder / "val" / "china").glob("*beton*"))
