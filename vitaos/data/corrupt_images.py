"""What happens to an image that will not decode: an error with its name, or a counted, reported, deterministic
replacement.
"""

import ctypes
import logging
import multiprocessing
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import numpy as np

OnBad = Literal["fail", "skip"]
ON_BAD: Final = ("fail", "skip")

MAX_CORRUPT_SHARE: Final = 0.001
"""Replacing more than this share of a dataset would change what is trained on: the run stops instead."""

Decoded = TypeVar("Decoded")
log = logging.getLogger(__name__)


class CorruptImageError(ValueError):
    """An image that will not decode; the message names which and why."""


class CorruptImages:
    """Counts the images of a dataset that did not decode in one rank: over its threads, or its worker processes.

    Ranks are counted together by :meth:`check_over_ranks`.

    Args:
        num_images: images in the dataset; one of them, or a thousandth where that is more, may be bad.
        on_bad: ``fail`` raises at the first bad image, ``skip`` replaces it by the next good one of the dataset.
        name: the dataset, for messages.
        evaluation: whether it is evaluated on, where a replacement would be another image's score.
    """

    def __init__(self, num_images: int, on_bad: OnBad, name: str, *, evaluation: bool = False) -> None:
        if on_bad not in ON_BAD:
            raise ValueError(f"on_bad must be one of {', '.join(ON_BAD)}, got {on_bad!r}")
        self._num_images = num_images
        self._limit = max(1, int(num_images * MAX_CORRUPT_SHARE))
        self._on_bad = on_bad
        self._name = name
        self._advice = (
            "Repair it, or remove it from the dataset for good"
            if evaluation
            else "Repair or remove it, or train without it: data.on_bad=skip puts the next good image in its place"
        )
        # A byte an image in memory that worker processes share: each marks its own, all count the same.
        self._bad = multiprocessing.RawArray(ctypes.c_uint8, num_images)

    @property
    def indices(self) -> list[int]:
        """Dataset indices of the images found bad so far."""
        marks: list[int] = np.flatnonzero(np.frombuffer(memoryview(self._bad), dtype=np.uint8)).tolist()
        return marks

    def mark(self, indices: list[int]) -> None:
        """Take over what another process has found, and reported."""
        for index in indices:
            self._bad[index] = 1

    def decode(self, index: int, decode: Callable[[int], Decoded]) -> tuple[int, Decoded]:
        """Decode image ``index``, or the next good one after it when images are skipped.

        Returns:
            the index that was decoded, and what ``decode`` gave for it.

        Raises:
            CorruptImageError: at a bad image under ``on_bad=fail``; when more than the tolerated share is bad under
                ``skip``.
        """
        for candidate in range(index, index + self._num_images):
            wrapped = candidate % self._num_images
            try:
                return wrapped, decode(wrapped)
            except CorruptImageError as error:
                self._note(wrapped, error)
        raise CorruptImageError(f"{self._name}: no image decodes")

    def _note(self, index: int, error: CorruptImageError) -> None:
        if self._on_bad == "fail":
            raise CorruptImageError(f"{error} {self._advice}") from error
        if self._bad[index]:
            return
        self._bad[index] = 1
        count = len(self.indices)
        log.warning("image %d replaced by the next good one (%d so far): %s", index, count, error)
        if count > self._limit:
            raise CorruptImageError(f"{self._too_many(count)}; the last one: {error}") from error

    def check_over_ranks(self, gather: Callable[[list[int]], list[list[int]]]) -> None:
        """Hold what all ranks have found against the limit; a collective call.

        Args:
            gather: returns the argument of every rank on every rank.

        Raises:
            CorruptImageError: on all ranks alike: together they found too many.
        """
        found = set().union(*gather(self.indices))
        if len(found) > self._limit:
            raise CorruptImageError(f"{self._too_many(len(found))}; the first one is image {min(found)}")

    def _too_many(self, count: int) -> str:
        return f"{self._name}: {count} of {self._num_images} images do not decode, more than {MAX_CORRUPT_SHARE:.1%}"
