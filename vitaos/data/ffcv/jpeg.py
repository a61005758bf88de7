"""The size in a JPEG stream's header, so that a damaged record is noticed before its pixels are used."""

from typing import Final

_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset(range(0xD0, 0xD9)) | {0x01}


def jpeg_size(data: memoryview) -> tuple[int, int] | None:
    """(height, width) from the frame header, or None when there is none (ITU-T T.81, B.2)."""
    end = len(data)
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return None
    at = 2
    while at + 9 <= end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _START_OF_FRAME:
            return (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8])
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None
