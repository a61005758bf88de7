"""What a beton says of itself: its header, its fields, the metadata of its records and the table of allocations.

The layout is that of version 2 of FFCV's format (``ffcv/types.py`` of 1.0.2), read here without that package, whose
import costs seconds. All numbers are little-endian::

    header | field descriptors | metadata, a row a record | the records' bytes | table of allocations
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaos.data.ffcv.manifest import Section, Sections

FORMAT_VERSION: Final = 2
IMAGE: Final = "RGBImageField"
INTEGER: Final = "IntField"

_HEADER: Final = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD: Final = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
_ALLOCATION: Final = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

_IMAGE_COLUMN: Final = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES_COLUMN: Final = np.dtype([("ptr", "<u8"), ("size", "<u8")])
_FIELDS: Final[dict[int, tuple[str, Any]]] = {
    0: ("FloatField", "<f8"),
    1: (INTEGER, "<i8"),
    2: (IMAGE, _IMAGE_COLUMN),
    3: ("BytesField", _BYTES_COLUMN),
    4: ("NDArrayField", "<u8"),
    5: ("JSONField", _BYTES_COLUMN),
    6: ("TorchTensorField", "<u8"),
}
"""FFCV's name of each kind of field, and what a record's metadata holds of it."""


class BetonIndex(NamedTuple):
    """The index of a beton.

    Attributes:
        field_kinds: FFCV's names of the fields' classes, in the order of the columns of ``metadata``.
        num_records: as the header says; ``metadata`` has fewer rows where the file was cut short.
        metadata: (N,) structured, a column a field.
        allocations: (M,) structured: ``sample_id``, ``ptr`` and ``size`` of each piece of the records' bytes.
        sections: where its parts lie.
    """

    field_kinds: list[str]
    num_records: int
    metadata: NDArray[Any]
    allocations: NDArray[Any]
    sections: Sections


def read_index(path: Path) -> BetonIndex:
    """Read the index; what it says is taken as it stands, but for what makes it no beton.

    Raises:
        ValueError: this is no beton, of another version, or has a field of a class that is FFCV's user's own.
    """
    size = path.stat().st_size
    header = _rows(path, _HEADER, 1, 0, size)
    if not len(header):
        raise ValueError(f"it has {size} bytes, fewer than a header")
    if header["version"][0] != FORMAT_VERSION:
        raise ValueError(f"it begins with version {header['version'][0]} of the format, where {FORMAT_VERSION} is read")
    fields = _rows(path, _FIELD, int(header["num_fields"][0]), _HEADER.itemsize, size)
    unknown = [int(kind) for kind in fields["type_id"] if int(kind) not in _FIELDS]
    if unknown:
        raise ValueError(f"it has a field of the unknown kind {unknown[0]}")
    kinds = [_FIELDS[int(kind)] for kind in fields["type_id"]]
    row = np.dtype([("", column) for _, column in kinds], align=True)
    num_records, table = int(header["num_samples"][0]), int(header["alloc_table_ptr"][0])
    fields_end = _HEADER.itemsize + fields.nbytes
    metadata = _rows(path, row, num_records, fields_end, size) if kinds else np.empty(0, dtype=row)
    metadata_end = fields_end + metadata.nbytes
    return BetonIndex(
        [name for name, _ in kinds],
        num_records,
        metadata,
        _rows(path, _ALLOCATION, size, table, size),
        Sections(
            Section(0, fields_end),
            Section(fields_end, metadata_end),
            Section(metadata_end, table),
            Section(table, size),
        ),
    )


def _rows(path: Path, row: np.dtype[Any], count: int, start: int, size: int) -> NDArray[Any]:
    """Up to ``count`` rows from a place of the file on: as many as lie before its end."""
    there = max(0, size - start) // row.itemsize
    if not there:
        return np.empty(0, dtype=row)
    rows = np.fromfile(path, dtype=row, count=min(count, there), offset=start)
    rows.setflags(write=False)
    return rows
