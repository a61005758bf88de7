"""An image file -> its record in a beton: the pixels as they are, or a JPEG."""

import io
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from ffcv.fields.rgb_image import encode_jpeg
from numpy.typing import NDArray
from PIL import Image

from vitaos.counter_rng import mix
from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.reader import JPEG_MODE, RAW_MODE, decodes
from vitaos.data.folder.decode import decode_failure, to_rgb

MAX_SIDE: Final = 65535
"""Largest side the format can hold."""


class Record(NamedTuple):
    """One image as it is stored."""

    mode: int
    height: int
    width: int
    content: NDArray[np.uint8]


def encode(path: Path, index: int, options: WriteOptions) -> Record:
    """Decode a file and make its record.

    Raises:
        CorruptImageError: with the reason, when it does not decode or cannot be stored.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels_HW3 = np.asarray(to_rgb(image))
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and "progressive" not in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptImageError(decode_failure(error)) from error
    bounded_HW3 = _bounded(pixels_HW3, options.max_resolution)
    height, width = bounded_HW3.shape[:2]
    if max(height, width) > MAX_SIDE:
        raise CorruptImageError(f"{width} x {height} pixels are more than a beton can hold: set max_resolution")
    if not _as_jpeg(index, options):
        return Record(RAW_MODE, height, width, np.ascontiguousarray(bounded_HW3).reshape(-1))
    encoded = encode_jpeg(bounded_HW3, options.quality)
    if plain and bounded_HW3 is pixels_HW3 and len(data) <= len(encoded):
        own = np.frombuffer(data, dtype=np.uint8)
        # Pillow shrugs at stray bytes and damaged blocks that FFCV's decoder refuses when the record is read.
        encoded = own if decodes(own, height, width) else encoded
    return Record(JPEG_MODE, height, width, encoded)


def _bounded(image_HW3: NDArray[np.uint8], max_resolution: int) -> NDArray[np.uint8]:
    """Shrink so that the longer side is at most ``max_resolution`` (0: leave as it is)."""
    longer = max(image_HW3.shape[:2])
    if max_resolution == 0 or longer <= max_resolution:
        return image_HW3
    height, width = (max(1, round(side * max_resolution / longer)) for side in image_HW3.shape[:2])
    return np.asarray(cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _as_jpeg(index: int, options: WriteOptions) -> bool:
    """Whether a record is a JPEG: for ``proportion`` a fixed draw of its index, the same in every writing."""
    if options.mode == "proportion":
        return float(mix(index)) / 2.0**64 < options.fraction
    return options.mode == "jpg"
