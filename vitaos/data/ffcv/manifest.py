"""The manifest beside a beton: what the file holds, how it was written, and checksums that detect damage.

A beton names no classes, and its format does not reveal that the file was cut short; ``FILE.beton.json`` does both.
Opening a beton compares the size and everything but the images' bytes; :func:`find_damaged_blocks` reads those too.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, get_origin

FORMAT: Final = "vitaos-beton-1"
BLOCK: Final = 1 << 26
"""Bytes of image data under one checksum: small enough to show which records a damage touches."""

RECORDS: Final = "records"
"""Key of the digest of all records, which is the same in whatever pages they lie; older manifests have none."""

IMAGES: Final = "images"
"""Key of what the source held when it was written; older manifests do not say."""

_CHUNK: Final = 1 << 20


class Section(NamedTuple):
    """Bytes ``start`` to ``end`` of a beton."""

    start: int
    end: int


class Sections(NamedTuple):
    """The parts of a beton, in the order of the file."""

    header: Section
    metadata: Section
    data: Section
    allocation_table: Section

    def blocks(self) -> Iterator[Section]:
        """The image data in pieces of ``BLOCK`` bytes."""
        for start in range(self.data.start, self.data.end, BLOCK):
            yield Section(start, min(start + BLOCK, self.data.end))


@dataclass(frozen=True)
class BetonManifest:
    """What stands in ``FILE.beton.json``.

    Attributes:
        num_images: records in the beton.
        class_names: in the order of the labels.
        class_counts: images of each class.
        options: how it was written.
        source: where from.
        skipped: images left out because they did not decode.
        size: bytes of the beton.
        checksums: CRC-32 (hexadecimal) of each section; ``data`` is a list, one for each ``BLOCK`` bytes; ``records``
            is the SHA-256 of the records, ``images`` that of the source's names and of the beginnings of its files.
    """

    num_images: int
    class_names: list[str]
    class_counts: list[int]
    options: dict[str, Any]
    source: str
    skipped: int
    size: int
    checksums: dict[str, Any]
    format: str = FORMAT


def manifest_path(beton: Path) -> Path:
    """Where the manifest of a beton lies."""
    return beton.with_name(beton.name + ".json")


def read_manifest(beton: Path) -> BetonManifest | None:
    """The manifest of a beton, or None where there is none.

    Raises:
        ValueError: when there is one that cannot be read.
    """
    path = manifest_path(beton)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = BetonManifest(**content)
        _validate(manifest)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): write the beton again with scripts/write_ffcv.py") from error
    if manifest.format != FORMAT:
        raise ValueError(f"{path} has format {manifest.format!r}, this version reads {FORMAT!r}: write the beton again")
    return manifest


def _validate(manifest: BetonManifest) -> None:
    """Raise TypeError or ValueError where a field is not what a writer puts there."""
    for field in fields(manifest):
        value = getattr(manifest, field.name)
        kind: Any = get_origin(field.type) or field.type
        if not isinstance(value, kind):
            raise TypeError(f"{field.name} is {value!r}")
    if sum(manifest.class_counts) != manifest.num_images or len(manifest.class_counts) != len(manifest.class_names):
        raise ValueError(
            f"class_counts do not add up to {manifest.num_images} images of {len(manifest.class_names)} classes"
        )
    wanted = ("header", "metadata", "data", "allocation_table")
    missing = [name for name in wanted if name not in manifest.checksums]
    if missing:
        raise ValueError(f"checksums of {', '.join(missing)} are missing")


def write_manifest(manifest: BetonManifest, path: Path) -> None:
    """Write a manifest to a file and make sure it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def checksum(path: Path, section: Section) -> str:
    """CRC-32 of a part of a file."""
    value = 0
    with path.open("rb") as file:
        file.seek(section.start)
        left = section.end - section.start
        while left > 0:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                break
            value = zlib.crc32(piece, value)
            left -= len(piece)
    return f"{value:08x}"


def all_checksums(path: Path, sections: Sections, threads: int = 4) -> dict[str, Any]:
    """The checksums of a whole beton, as a manifest keeps them."""
    with ThreadPoolExecutor(threads) as pool:
        data = list(pool.map(lambda block: checksum(path, block), sections.blocks()))
    return {
        "header": checksum(path, sections.header),
        "metadata": checksum(path, sections.metadata),
        "data": data,
        "allocation_table": checksum(path, sections.allocation_table),
    }


def check_index(path: Path, manifest: BetonManifest, sections: Sections) -> None:
    """The cheap check: everything but the images' bytes.

    Raises:
        ValueError: names the part that differs and what to do.
    """
    for name in ("header", "metadata", "allocation_table"):
        if checksum(path, getattr(sections, name)) != manifest.checksums[name]:
            raise ValueError(
                f"{path}: its {name.replace('_', ' ')} differs from what was written: {repair(path, manifest)}"
            )


def find_damaged_blocks(
    path: Path, manifest: BetonManifest, sections: Sections, threads: int, on_block: Callable[[int, int], None]
) -> list[Section]:
    """The blocks of image data that differ from what was written; ``on_block(done, total)`` is called on progress."""
    blocks = list(sections.blocks())
    damaged: list[Section] = []
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda block: checksum(path, block), blocks)
        for number, (block, value) in enumerate(zip(blocks, found, strict=True)):
            if manifest.checksums["data"][number : number + 1] != [value]:
                damaged.append(block)
            on_block(number + 1, len(blocks))
    return damaged


def repair(path: Path, manifest: BetonManifest | None) -> str:
    """What to do with a damaged beton."""
    source = manifest.source if manifest is not None else "DIR"
    options = "".join(f" {key}={value}" for key, value in manifest.options.items()) if manifest is not None else ""
    return (
        "copy the file again, or remove it and write it again with: "
        f"python scripts/write_ffcv.py source={source} out={path}{options}"
    )
