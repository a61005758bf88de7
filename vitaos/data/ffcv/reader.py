"""Reading FFCV's files with FFCV's own native code; the only module that imports ffcv for reading.

FFCV's ``Loader`` is left out on purpose: its producer thread can die unnoticed, its buffers are overwritten while in
use, its draws have no seed and its distributed order pads. Its file format, its reader and its C functions (JPEG
decoding, area resize; ctypes lets go of Python's lock while they run) are what makes it fast, and those are used here.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.ffcv.jpeg import jpeg_size
from vitaos.data.ffcv.manifest import BetonManifest, Section, Sections, check_index, read_manifest, repair
from vitaos.data.fingerprint import fingerprint

JPEG_MODE: Final = 0
RAW_MODE: Final = 1
MOST_CLASSES: Final = 1 << 20
"""In a beton without a manifest a larger label is damage, not a class."""

INSTALL_HINT: Final = (
    "FFCV is not installed. scripts/setup.sh installs it (by hand, on Debian or Ubuntu: apt install libturbojpeg0-dev "
    "libopencv-dev pkg-config g++, then pip install ffcv==1.0.2). Without it, use data=imagefolder, "
    "or data.loader=folder for the digits"
)


def native() -> Any:
    """FFCV's C functions through ctypes.

    Raises:
        ValueError: FFCV or one of its libraries is missing; the message explains how to install it.
    """
    # FFCV's import starts numba's threads, which nothing here uses; those of TBB complain at every later fork.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    try:
        import ffcv.libffcv  # noqa: PLC0415  # optional, and seconds to import
    except (ImportError, OSError) as error:
        raise ValueError(f"{INSTALL_HINT} (import said: {error})") from error
    # The OpenCV that FFCV links has threads of its own; one image is one thread's work here.
    set_opencv_threads = getattr(ffcv.libffcv.lib, "_ZN2cv13setNumThreadsEi", None)
    if set_opencv_threads is not None:
        set_opencv_threads(1)
    return ffcv.libffcv


def decodes(content: NDArray[np.uint8], height: int, width: int) -> bool:
    """Whether FFCV's decoder makes an image of this size of a JPEG; unlike Pillow's it refuses what libjpeg only warns
    of (stray bytes between segments, damaged blocks).
    """
    stream = np.ascontiguousarray(content)
    pixels = np.empty(height * width * 3, dtype=np.uint8)
    return jpeg_size(stream.data) == (height, width) and _decode_jpeg(
        native(), stream.ctypes.data, stream.nbytes, (height, width), pixels
    )


def _decode_jpeg(library: Any, address: int, size: int, shape: tuple[int, int], pixels: NDArray[np.uint8]) -> bool:
    """Decode ``size`` bytes at an address into ``pixels`` of (height, width); False when the decoder complains."""
    status = library.ctypes_imdecode(address, size, *shape, pixels.ctypes.data, *shape, 0, 0, 1, 1, False, False)
    return bool(status == 0)


class Beton:
    """An open beton of images with labels: its index in memory, its images mapped (or read) from the file.

    Attributes:
        path: the file.
        manifest: what stands beside it, None for a beton written elsewhere.
        class_names: in the order of the targets.
        heights, widths: (N,) int64 sizes of the images.
        targets: (N,) int64.
    """

    def __init__(self, path: Path, manifest: BetonManifest | None, reader: Any, *, in_memory: bool) -> None:
        names = _field_names(path, reader)
        images, labels = reader.metadata[names[0]], reader.metadata[names[1]]
        self.path = path
        self.manifest = manifest
        self.heights = images["height"].astype(np.int64)
        self.widths = images["width"].astype(np.int64)
        self.targets = labels.astype(np.int64)
        self._modes = images["mode"].astype(np.int64)
        self._starts = images["data_ptr"].astype(np.int64)
        self._sizes = _record_sizes(path, manifest, reader, self._starts)
        self.sections = _sections(path, reader)
        self._check_index()
        self.class_names = (
            manifest.class_names
            if manifest is not None
            else [str(label) for label in range(int(self.targets.max()) + 1)]
        )
        self._library = native()
        self._memory: NDArray[np.uint8] = (
            np.fromfile(path, dtype=np.uint8) if in_memory else np.memmap(path, dtype=np.uint8, mode="r")
        )
        self._bytes = self._memory.data
        self._address = self._memory.ctypes.data
        self._scratch = threading.local()

    def __len__(self) -> int:
        return len(self.targets)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data whatever its path, by the manifest's checksums or, where there is none, by the index."""
        if self.manifest is not None:
            content = [json.dumps(self.manifest.checksums, sort_keys=True).encode()]
        else:
            content = [column.tobytes() for column in (self.heights, self.widths, self._starts, self._sizes)]
        return fingerprint("ffcv", self.class_names, self.targets, *content)

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
        if jpeg_size(self._bytes[start : start + size]) != (height, width) or not _decode_jpeg(
            self._library, self._address + start, size, (height, width), pixels
        ):
            raise CorruptImageError(
                f"record {index} of {self.path} is not a readable JPEG of {width} x {height} pixels."
            )
        return pixels.reshape(height, width, 3)

    def area(self, image_HW3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """FFCV's own resize (OpenCV's INTER_AREA) of an image whose rows may be strided."""
        out_HW3 = np.empty((height, width, 3), dtype=np.uint8)
        source_HW3 = np.ascontiguousarray(image_HW3)
        self._library.resize_crop(source_HW3, 0, source_HW3.shape[0], 0, source_HW3.shape[1], out_HW3)
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
    from ffcv.reader import Reader  # noqa: PLC0415  # optional, and seconds to import

    try:
        reader = Reader(str(path))
    except Exception as error:  # its parser takes every byte on trust: whatever damage makes of it
        raise ValueError(f"{path} is not a readable beton ({error}): {repair(path, manifest)}") from error
    if manifest is not None:
        check_index(path, manifest, _sections(path, reader))
    return Beton(path, manifest, reader, in_memory=in_memory)


def _field_names(path: Path, reader: Any) -> tuple[str, str]:
    """The columns of the image and the label in the metadata."""
    kinds = [type(handler).__name__ for handler in reader.handlers.values()]
    if kinds[:2] != ["RGBImageField", "IntField"]:
        raise ValueError(f"{path} holds the fields {kinds}: an image and an integer label must come first")
    if reader.num_samples == 0 or len(reader.metadata) != reader.num_samples:
        raise ValueError(f"{path} is truncated or empty: {len(reader.metadata)} of {reader.num_samples} index entries")
    return reader.metadata.dtype.names[0], reader.metadata.dtype.names[1]


def _sections(path: Path, reader: Any) -> Sections:
    header_end = reader.header.dtype.itemsize + reader.field_descriptors.nbytes
    metadata_end = header_end + reader.metadata.nbytes
    table = int(reader.header["alloc_table_ptr"])
    return Sections(
        Section(0, header_end),
        Section(header_end, metadata_end),
        Section(metadata_end, table),
        Section(table, path.stat().st_size),
    )


def _record_sizes(
    path: Path, manifest: BetonManifest | None, reader: Any, starts_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Bytes of each record's image, from the table of allocations."""
    count = len(starts_N)
    table = reader.alloc_table
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
