"""Betons that are damaged, in every part, are refused at opening or found by the full check; quickly, and by name."""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos.data.ffcv import native
from vitaos.data.ffcv.index import read_index
from vitaos.data.ffcv.reader import open_beton
from vitaos.data.ffcv.verify import verify_beton


@pytest.fixture
def copy(photo_betons: Path, tmp_path: Path) -> Path:
    for suffix in ("", ".json"):
        shutil.copy(photo_betons / f"train.beton{suffix}", tmp_path / f"train.beton{suffix}")
    return tmp_path / "train.beton"


def overwrite(path: Path, place: int) -> None:
    """Change one byte."""
    with path.open("rb") as file:
        file.seek(place)
        old = file.read(1)
    put(path, place, old[0] ^ 0x55)


def put(path: Path, place: int, value: int) -> None:
    """Give one byte a value."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([value]))


@pytest.mark.parametrize("left", [0, 10, 3000, -1])
def test_a_truncated_beton_is_refused(copy: Path, left: int) -> None:
    content = copy.read_bytes()
    copy.write_bytes(content[:left])
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=r"train\.beton is truncated: \d+ bytes where \d+ were written: copy.*write_ffcv"
    ):
        open_beton(copy)
    assert time.monotonic() - start < 1
    copy.with_name("train.beton.json").unlink()
    with pytest.raises(ValueError, match=r"train\.beton"):
        open_beton(copy)


def test_an_altered_index_is_refused(copy: Path) -> None:
    sections = open_beton(copy).sections
    for name in ("header", "metadata", "allocation_table"):
        place = getattr(sections, name).end - 20
        overwrite(copy, place)
        with pytest.raises(ValueError, match=f"its {name.replace('_', ' ')} differs from what was written"):
            open_beton(copy)
        overwrite(copy, place)
    assert len(open_beton(copy)) == 51


def test_altered_images_are_found_by_the_full_check(copy: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify_beton(copy, threads=2, on_progress=lambda done, total: seen.append((done, total))) == 51
    assert seen[-1][0] == seen[-1][1]
    overwrite(copy, int(open_beton(copy)._starts[30]) + 5)
    assert len(open_beton(copy)) == 51
    with pytest.raises(
        ValueError, match=r"damaged in 1 part.*51 record\(s\).*copy the file again, or remove it.*quality=95"
    ):
        verify_beton(copy)


def test_a_beton_without_a_manifest_is_read_and_checked_by_decoding(copy: Path) -> None:
    copy.with_name("train.beton.json").unlink()
    beton = open_beton(copy)
    assert beton.class_names == ["0", "1", "2"]
    assert verify_beton(copy, threads=2) == 51
    record = next(index for index in range(51) if beton._modes[index] == 0)
    overwrite(copy, int(beton._starts[record]) + 1)
    with pytest.raises(ValueError, match=rf"does not decode in 1 record\(s\) \({record}\)"):
        verify_beton(copy)


def test_a_damaged_manifest_is_named(copy: Path) -> None:
    manifest = copy.with_name("train.beton.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(manifest.read_text()[:-30])
    with pytest.raises(ValueError, match=r"train\.beton\.json is damaged"):
        open_beton(copy)
    manifest.write_text(json.dumps({**content, "format": "vitaos-beton-9"}))
    with pytest.raises(ValueError, match="format 'vitaos-beton-9', this version reads 'vitaos-beton-1'"):
        open_beton(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", "big"), ("checksums", {}), ("class_names", ["a"]), ("class_counts", None), ("options", [])],
)
def test_a_manifest_of_other_fields_is_named(copy: Path, field: str, value: object) -> None:
    manifest = copy.with_name("train.beton.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    with pytest.raises(ValueError, match=r"train\.beton\.json is damaged"):
        open_beton(copy)


def test_any_damage_of_an_index_without_a_manifest_is_met_with_words(copy: Path) -> None:
    """Labels, sizes, places and counts of any value: refused, or read within the file; never a crash or all memory."""
    copy.with_name("train.beton.json").unlink()
    sections, content = open_beton(copy).sections, copy.read_bytes()
    starts = [part.start for part in (sections.header, sections.metadata, sections.allocation_table)]
    messages = []
    for place in [start + byte for start in starts for byte in range(24)]:
        for value in (0x7F, 0xFF):
            put(copy, place, value)
            try:
                assert len(open_beton(copy).class_names) < 1 << 20
            except ValueError as error:
                messages.append(str(error))
        put(copy, place, content[place])
    assert len(messages) > 48
    assert all("train.beton" in message for message in messages)


def test_what_is_not_a_beton(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x02\x00" * 4000):
        (tmp_path / "x.beton").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.beton"):
            open_beton(tmp_path / "x.beton")
    with pytest.raises(ValueError, match=r"y\.beton does not exist.*Ask Ann"):
        open_beton(tmp_path / "y.beton", prepare="Ask Ann")


def test_the_index_is_that_of_ffcvs_own_reader(photo_betons: Path, tmp_path: Path) -> None:
    """Of an image and a label, and of every kind of field that may come after them."""
    from ffcv import fields  # noqa: PLC0415  # seconds to import, which the fixture has spent
    from ffcv.reader import Reader  # noqa: PLC0415
    from ffcv.writer import DatasetWriter  # noqa: PLC0415

    kinds = {
        "image": fields.RGBImageField(), "label": fields.IntField(), "float": fields.FloatField(),
        "bytes": fields.BytesField(), "json": fields.JSONField(),
        "array": fields.NDArrayField(np.dtype("<f4"), (2, 3)),
    }  # fmt: skip
    writer = DatasetWriter(str(tmp_path / "all.beton"), kinds, num_workers=1)
    writer.num_samples = 2
    writer.prepare()
    try:
        np.frombuffer(writer.metadata_sm.buf, dtype="u1", count=80)[:] = np.arange(80)
        writer.finalize([(0, 9000, 7), (1, 9007, 8)])
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()
    for path in (photo_betons / "train.beton", photo_betons / "val.beton", tmp_path / "all.beton"):
        ours, theirs = read_index(path), Reader(str(path))
        assert ours.field_kinds[:2] == [type(handler).__name__ for handler in theirs.handlers.values()][:2]
        assert ours.metadata.dtype == theirs.metadata.dtype
        assert ours.metadata.tobytes() == theirs.metadata.tobytes()
        assert ours.allocations.tobytes() == theirs.alloc_table.tobytes()
        assert ours.num_records == theirs.num_samples == len(ours.metadata)
        assert ours.sections.data.end == theirs.header["alloc_table_ptr"]


def test_without_ffcv_or_its_library_the_way_to_install_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ffcv").mkdir()
    (tmp_path / "ffcv" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ffcv", raising=False)
    with pytest.raises(ValueError, match=r"scripts/setup\.sh installs it.*its compiled part, _libffcv, is missing"):
        native.native.__wrapped__()
    (tmp_path / "ffcv" / "_libffcv.so").write_bytes(b"no library")
    with pytest.raises(ValueError, match=r"scripts/setup\.sh installs it.*loading its library said: .*_libffcv\.so"):
        native.native.__wrapped__()
    (tmp_path / "ffcv" / "__init__.py").unlink()
    (tmp_path / "ffcv" / "_libffcv.so").unlink()
    (tmp_path / "ffcv").rmdir()
    with pytest.raises(ValueError, match=r"scripts/setup\.sh installs it.*the package ffcv is missing"):
        native.native.__wrapped__()
