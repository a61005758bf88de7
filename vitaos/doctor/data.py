"""The disk of ``data.root``: whether the data are there, how fast they are read, and whether memory can hold them."""

import os
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from vitaos.doctor.finding import Finding, failed, ok, warning
from vitaos.doctor.host import available_memory

_IMAGE_BYTES: Final = 110_000  # an image of ImageNet, by the archive's size
_IMAGES_A_SECOND: Final = 1000  # below this many from the disk, one GPU waits in the first epoch
_MOST_BYTES: Final = 256 << 20
_MOST_FILES: Final = 2000
_CHUNK: Final = 1 << 20
_ROOM: Final = 20 << 30  # checkpoints of a large model


def root(path: str) -> list[Finding]:
    """Look at a ``data.root``."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [
            failed("data.root", f"{folder} is not a folder", "data.root=DIR with train/ and val/, or *.beton files")
        ]
    betons = sorted(folder.glob("*.beton"))
    parts = [name for name in ("train", "val", "validation", "test") if (folder / name).is_dir()]
    if not betons and not parts:
        cure = "a folder with train/ and val/ (class folders), or train.beton and val.beton: scripts/write_ffcv.py"
        return [failed("data.root", f"{folder} has neither class folders nor .beton files", cure)]
    names = [beton.name for beton in betons] or [f"{part}/" for part in parts]
    return [ok("data.root", f"{folder} has {', '.join(names)}"), *_rates(folder, betons)]


def _rates(folder: Path, betons: list[Path]) -> list[Finding]:
    """How fast files come from the disk, and out of the page cache."""
    files = list(islice(iter(betons) if betons else _files(folder), _MOST_FILES))
    size, read, seconds = _read(files, drop_cache=True)
    if not read:
        return [failed("data.root", "its files are empty or cannot be read", "look at their owner and permissions")]
    _, again, cached = _read(files, drop_cache=False)
    rate, cached_rate = read / seconds / 1e6, again / cached / 1e6
    detail = f"{rate:.0f} MB/s ({1e6 * rate / _IMAGE_BYTES:.0f} images/s of ImageNet), {read / 1e6:.0f} MB read"
    slow = 1e6 * rate < _IMAGES_A_SECOND * _IMAGE_BYTES
    cure = "copy the data to a local SSD, or read it once into the page cache before the run"
    findings = [warning("disk", detail, cure) if slow else ok("disk", detail)]
    findings.append(ok("page cache", f"{cached_rate:.0f} MB/s"))
    memory = available_memory()
    if betons and memory:
        detail = f"{size / 2**30:.1f} GiB of .beton files, {memory / 2**30:.1f} GiB of memory"
        cure = "epochs will be read from the disk: a local SSD, more memory, or a smaller max_resolution"
        findings.append(ok("data in memory", detail) if size < memory else warning("data in memory", detail, cure))
    return findings


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, without listing all of it first."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _read(files: list[Path], *, drop_cache: bool) -> tuple[int, int, float]:
    """(bytes of the files, bytes read of their beginnings, seconds); stops where enough was read."""
    size, read, seconds = 0, 0, 1e-9
    share = max(_CHUNK, _MOST_BYTES // max(1, len(files)))
    for path in files:
        try:
            size += path.stat().st_size
            with path.open("rb", buffering=0) as file:
                if drop_cache and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, share, os.POSIX_FADV_DONTNEED)
                begin = time.perf_counter()
                taken = 0
                while read < _MOST_BYTES and taken < share and (chunk := file.read(_CHUNK)):
                    read += len(chunk)
                    taken += len(chunk)
                seconds += time.perf_counter() - begin
        except OSError:
            continue
    return size, read, seconds


def out(path: str) -> list[Finding]:
    """Look at the folder that runs are written to, or the nearest that exists above it."""
    folder = Path(path).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return [failed("out", f"{folder} cannot be written", "out=DIR on a disk that is yours")]
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.0f} GiB free at {folder}"
    return [
        warning("out", detail, "out=DIR on a larger disk, or fewer checkpoints") if free < _ROOM else ok("out", detail)
    ]
