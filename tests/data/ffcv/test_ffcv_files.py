"""Betons that are damaged, in every part, are refused at opening or found by the full check; quickly, and by name."""

import json
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("ffcv", reason="FFCV is not installed")

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
