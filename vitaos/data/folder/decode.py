"""Decoding image files with Pillow, whatever their format, to the RGB pixels they mean."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitaos.data.corrupt_images import CorruptImageError


def read_image(path: Path) -> Image.Image:
    """Decode a file of any kind Pillow knows (grayscale, CMYK, palette, 16 bit, ...) to RGB.

    Raises:
        CorruptImageError: names the file and the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptImageError(f"{path} is not a readable image: {error}.") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the bytes of a file as :func:`read_image`; `name` stands in the error."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name} is not a readable image: {decode_failure(error)}.") from error


def decode_failure(error: Exception) -> str:
    """Why an image was not read, as a message for people: Pillow's would name the memory that it was read from."""
    return "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode; 16-bit grayscale keeps its upper 8 bits (Pillow's own conversion would clip it).

    Raises:
        ValueError: 32-bit integer or floating gray values, of which no file records what is white.
    """
    # Pillow opens 16-bit PGM and, in some versions, 16-bit PNG as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PPM", "PNG"}):
        gray_HW = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(gray_HW).convert("RGB")
    if image.mode in {"I", "F"}:
        kind = "integer" if image.mode == "I" else "floating"
        raise ValueError(f"32-bit {kind} gray values, whose white is not defined: convert it to 8 or 16 bits")
    return image.convert("RGB")
