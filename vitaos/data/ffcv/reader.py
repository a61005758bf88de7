"""Reading FFCV's files with FFCV's own native code.

FFCV's ``Loader`` is left out on purpose: its producer thread can die unnoticed, its buffers are overwritten while in
use, its draws have no seed and its distributed order pads. Its file format (:mod:`index`) and its C functions
(:mod:`native`) are what makes it fast, and those are used here.
"""

import json
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.ffcv.index import IMAGE, INTEGER, BetonIndex, read_index
from vitaos.data.ffcv.jpeg import jpeg_size
from vitaos.data.ffcv.manifest import RECORDS, BetonManifest, Section, check_index, read_manifest, repair
from vitaos.data.ffcv.native import native
from vitaos.data.ffcv.written_to import WrittenTo
from vitaos.data.fingerprint import fingerprint

JPEG_MODE: Final = 0
RAW_MODE: Final = 1
MOST_CLASSES: Final = 1 << 20
"""In a beton without a manifest a larger label is damage, not a class."""


def decodes(content: NDArray[np.uint8], height: int, width: int) -> bool:
    """Whether FFCV's decoder makes an image of this size of a JPEG; unlike Pillow's it refuses what libjpeg only warns
    of (stray bytes between segments, damaged blocks).
    """
    stream = np.ascontiguousarray(content)
    pixels = np.empty(height * width * 3, dtype=np.uint8)
    return jpeg_size(stream.data) == (height, width) and native().decode_jpeg(
        stream.ctypes.data, stream.nbytes, (height, width), pixels
    )


class Beton:
    """An open beton of images with labels: its index in memory, its images mapped (or read) from the file.

    Attributes:
        path: the file.
        manifest: what stands beside it, None for a beton written elsewhere.
        class_names: in the order of the targets.
        heights, widths: (N,) int64 sizes of the images.
        targets: (N,) int64.
    """

    def __init__(self, path: Path, manifest: BetonManifest | None, index: BetonIndex, *, in_memory: bool) -> None:
        _check_fields(path, index)
        columns = index.metadata.dtype.names
        assert columns is not None
        images, labels = (index.metadata[column] for column in columns[:2])
        self.path = path
        self.manifest = manifest
        self.heights = images["height"].astype(np.int64)
        self.widths = images["width"].astype(np.int64)
        self.targets = labels.astype(np.int64)
        self._modes = images["mode"].astype(np.int64)
        self._starts = images["data_ptr"].astype(np.int64)
        self._sizes = _record_sizes(path, manifest, index, self._starts)
        self.sections = index.sections
        self._check_index()
        self.class_names = (
            manifest.class_names
            if manifest is not None
            else [str(label) for label in range(int(self.targets.max()) + 1)]
        )
        self._native = native()
        self._memory: NDArray[np.uint8] = (
            np.fromfile(path, dtype=np.uint8) if in_memory else np.memmap(path, dtype=np.uint8, mode="r")
        )
        self._file = None if in_memory else WrittenTo(path)
        self._bytes = self._memory.data
        self._address = self._memory.ctypes.data
        self._scratch = threading.local()

    def __len__(self) -> int:
        return len(self.targets)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data whatever its path, by what the manifest says of the records (an older one: of the file)
        or, where there is none, by the index."""
        if self.manifest is not None and RECORDS in self.manifest.checksums:
            content = [str(self.manifest.checksums[RECORDS]).encode()]
        elif self.manifest is not None:
            content = [json.dumps(self.manifest.checksums, sort_keys=True).encode()]
        else:
            content = [column.tobytes() for column in (self.heights, self.widths, self._starts, self._sizes)]
        return fingerprint("ffcv", self.class_names, self.targets, *content)

    def look(self) -> None:
        """Warn where the mapped file was written to since the last look; one that is in memory may be.

        Raises:
            ValueError: its size is another one.
        """
        if self._file is not None:
            self._file.look()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode one image to (H, W, 3) RGB, valid until this thread decodes the next one.

        Raises:
            CorruptImageError: names the record when it does not decode to the size it was written with.
        """
        height, width = int(self.heights[index]), int(self.widths[index])
        start, size = int(self._starts[index]), int(self._sizes[index])
        if self._modes[index] == RAW_MODE:
            return self._memory[start : start + size].reshape(height, width, 3)
        pixels = self._buffer(height * width * 3)
        # The decoder fits a stream of another size into the buffer without complaint; the rest would be old pixels.
        if jpeg_size(self._bytes[start : start + size]) != (height, width) or not self._native.decode_jpeg(
            self._address + start, size, (height, width), pixels
        ):
            raise CorruptImageError(
                f"record {index} of {self.path} is not a readable JPEG of {width} x {height} pixels."
            )
        return pixels.reshape(height, width, 3)

    def area(self, image_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """FFCV's own resize (OpenCV's INTER_AREA) of an image whose rows may be strided."""
        out_HW3 = np.empty((height, width, 3), dtype=np.uint8)
        self._native.resize_area(np.ascontiguousarray(image_HW3), out_HW3)
        return out_HW3

    def records_in(self, section: Section) -> NDArray[np.int64]:
        """Indices of the records whose bytes touch a part of the file."""
        touched = (self._starts < section.end) & (self._starts + self._sizes > section.start)
        return np.flatnonzero(touched).astype(np.int64)

    def _buffer(self, count: int) -> NDArray[np.uint8]:
        """This thread's decoding buffer, grown when an image is larger than any before."""
        held: NDArray[np.uint8] | None = getattr(self._scratch, "pixels", None)
        if held is None or len(held) < count:
            held = np.empty(count, dtype=np.uint8)
            self._scratch.pixels = held
        return held[:count]

    def _check_index(self) -> None:
        """Every record lies inside the data section and has a possible size."""
        raw = self._modes == RAW_MODE
        classes = MOST_CLASSES if self.manifest is None else len(self.manifest.class_names)
        possible = (
            (raw | (self._modes == JPEG_MODE))
            & (self.heights > 0)
            & (self.widths > 0)
            & (self.targets >= 0)
            & (self.targets < classes)
            & (self._starts >= self.sections.data.start)
            & (self._starts + self._sizes <= self.sections.data.end)
            & (~raw | (self._sizes == self.heights * self.widths * 3))
        )
        wrong = np.flatnonzero(~possible)
        if len(wrong):
            raise ValueError(
                f"{self.path}: the index is damaged ({len(wrong)} impossible records, the first is {wrong[0]}): "
                f"{repair(self.path, self.manifest)}"
            )


def open_beton(path: str | Path, *, in_memory: bool = False, prepare: str = "") -> Beton:
    """Open a beton after the cheap check (size, header, index; the images' bytes are left alone).

    Args:
        path: the ``.beton``; its manifest ``PATH.json`` should lie beside it.
        in_memory: read the whole file into memory instead of mapping it.
        prepare: added to the message when the file is missing.

    Raises:
        ValueError: FFCV missing, file missing, truncated, altered or not a beton of images and labels.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist. "
            f"Write it with: python scripts/write_ffcv.py source=DIR out={path}. {prepare}".strip()
        )
    manifest = read_manifest(path)
    size = path.stat().st_size
    if manifest is not None and manifest.size != size:
        state = "truncated" if size < manifest.size else "altered"
        raise ValueError(
            f"{path} is {state}: {size} bytes where {manifest.size} were written: {repair(path, manifest)}"
        )
    native()
    try:
        index = read_index(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable beton ({error}): {repair(path, manifest)}") from error
    if manifest is not None:
        check_index(path, manifest, index.sections)
    return Beton(path, manifest, index, in_memory=in_memory)


def _check_fields(path: Path, index: BetonIndex) -> None:
    """Raise ValueError unless there are records, and their first columns are an image and a label."""
    if index.field_kinds[:2] != [IMAGE, INTEGER]:
        raise ValueError(f"{path} holds the fields {index.field_kinds}: an image and an integer label must come first")
    if index.num_records == 0 or len(index.metadata) != index.num_records:
        raise ValueError(f"{path} is truncated or empty: {len(index.metadata)} of {index.num_records} index entries")


def _record_sizes(
    path: Path, manifest: BetonManifest | None, index: BetonIndex, starts_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Bytes of each record's image, from the table of allocations."""
    count = len(starts_N)
    table = index.allocations
    records, pointers = table["sample_id"].astype(np.int64), table["ptr"].astype(np.int64)
    sizes = table["size"].astype(np.int64)
    if (
        len(table) == count
        and np.all((records >= 0) & (records < count))
        and np.array_equal(pointers, starts_N[records])
    ):
        # One allocation a record, as written here: no search needed (a tenth of a second for ImageNet).
        found_N = np.zeros(count, dtype=np.int64)
        found_N[records] = sizes
        return found_N
    order = np.argsort(pointers)
    places_N = np.searchsorted(pointers[order], starts_N)
    complete = len(pointers) >= count and bool(np.all(places_N < len(pointers)))
    if not complete or not np.array_equal(pointers[order][places_N], starts_N):
        raise ValueError(
            f"{path} is truncated or altered: its table of allocations misses records: {repair(path, manifest)}"
        )
    return np.asarray(sizes[order][places_N], dtype=np.int64)
