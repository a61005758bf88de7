"""The full check of a beton: every byte against its manifest, or every image decoded where there is no manifest."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.ffcv.manifest import find_damaged_blocks, repair
from vitaos.data.ffcv.reader import Beton, open_beton

SHOWN: Final = 8
"""Damaged records named in a message; the rest are counted."""


def verify_beton(
    path: str | Path, *, threads: int = 1, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> int:
    """Check a whole beton.

    Args:
        path: the ``.beton``.
        threads: readers at once.
        on_progress: called with (done, total) blocks or images.

    Returns:
        the number of its images.

    Raises:
        ValueError: when anything differs from what was written; names the records that are touched.
    """
    beton = open_beton(path)
    if beton.manifest is None:
        _decode_all(beton, threads, on_progress)
        return len(beton)
    damaged = find_damaged_blocks(beton.path, beton.manifest, beton.sections, threads, on_progress)
    if damaged:
        touched = sorted({int(record) for block in damaged for record in beton.records_in(block)})
        raise ValueError(
            f"{path} is damaged in {len(damaged)} part(s), bytes {damaged[0].start} to {damaged[-1].end}, which hold "
            f"{_listed(touched)}: {repair(beton.path, beton.manifest)}"
        )
    return len(beton)


def _decode_all(beton: Beton, threads: int, on_progress: Callable[[int, int], None]) -> None:
    def decodes(index: int) -> bool:
        try:
            beton.image(index)
        except CorruptImageError:
            return False
        return True

    bad: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        for index, good in enumerate(pool.map(decodes, range(len(beton)))):
            if not good:
                bad.append(index)
            on_progress(index + 1, len(beton))
    if bad:
        raise ValueError(f"{beton.path} does not decode in {_listed(bad)}: {repair(beton.path, None)}")


def _listed(records: list[int]) -> str:
    shown = ", ".join(str(record) for record in records[:SHOWN])
    more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
    return f"{len(records)} record(s) ({shown}{more})"
