"""How a beton is written: what its writer, its record workers and its callers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["jpg", "raw", "proportion"]
MODES: Final = ("jpg", "raw", "proportion")
Progress = Callable[[int, int, int], None]
"""Told (done, total, unreadable) while images are written."""


@dataclass(frozen=True)
class WriteOptions:
    """How images are stored.

    Attributes:
        mode: ``jpg``, ``raw`` pixels, or ``proportion``: a share of the images as JPEG, the others raw (FFCV's
            published ImageNet setting: 500 px, half of them at quality 90). Raw costs disk, JPEG costs decoding.
        max_resolution: bound of the longer side in pixels; larger images are shrunk by area averaging. 0: no bound.
        quality: of the JPEGs. A JPEG that needs no shrinking keeps its own bytes where they are no longer than this
            quality would make them.
        fraction: share of JPEGs for ``proportion``.
    """

    mode: Mode = "jpg"
    max_resolution: int = 500
    quality: int = 90
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be in 1..100, got {self.quality}")
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must be in 0..1, got {self.fraction}")
        if self.max_resolution < 0:
            raise ValueError(f"max_resolution must be 0 (no bound) or a number of pixels, got {self.max_resolution}")
