"""Class folders into a beton and its manifest: every image decoded once, nothing half-written ever looks finished."""

import glob
import os
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from vitaos.data.corrupt_images import OnBad
from vitaos.data.ffcv.manifest import (
    IMAGES,
    RECORDS,
    BetonManifest,
    all_checksums,
    manifest_path,
    read_manifest,
    write_manifest,
)
from vitaos.data.ffcv.native import INSTALL_HINT, native
from vitaos.data.ffcv.options import Progress, WriteOptions
from vitaos.data.ffcv.reader import open_beton
from vitaos.data.folder.digits import FFCV_FOLDER, move_into_place
from vitaos.data.folder.files import ImageFolder, check_no_empty_class
from vitaos.data.folder.scan import Unusable, list_files
from vitaos.files import sync_folder

if TYPE_CHECKING:
    from vitaos.data.ffcv.records import RecordWriter


class Unreadable(NamedTuple):
    """A file that did not decode, and why."""

    path: str
    reason: str


class WriteReport(NamedTuple):
    """What was written.

    Attributes:
        num_images: records in the beton.
        unreadable: files left out.
        already_there: the beton was finished before, nothing was done.
    """

    num_images: int
    unreadable: list[Unreadable]
    already_there: bool


def write_beton(
    source: str | Path,
    out: str | Path,
    options: WriteOptions | None = None,
    *,
    workers: int = 0,
    on_bad: OnBad = "fail",
    on_progress: Progress = lambda _done, _total, _unreadable: None,
) -> WriteReport:
    """Write the images of class folders into ``out`` and ``out.json``, under temporary names until both are finished.

    Args:
        source: folder with one folder a class.
        out: the ``.beton``; when it is there and finished with the same source and options, nothing is done.
        options: how images are stored.
        workers: writing processes; 0 writes in this process.
        on_bad: files that do not decode are listed in ``out.unreadable.txt``; ``fail`` then writes no beton, ``skip``
            leaves them out.
        on_progress: called with how far it is.

    Raises:
        ValueError: bad source or options, unreadable files under ``fail``, another beton in the way, a dead worker.
    """
    options = options if options is not None else WriteOptions()
    out = Path(out)
    if out.suffix != ".beton":
        raise ValueError(f"out must end in .beton, got {out}")
    folder, unusable = list_files(source)
    _refuse_out_among_images(folder, out)
    done = _finished_before(folder, out, options, on_bad)
    if done is not None:
        return done
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    left_out = [_left_out(folder, item) for item in unusable]
    if left_out and on_bad == "fail":
        _refuse_unreadable(out, left_out, len(folder) + len(left_out))
    unfinished = _unfinished_name(out)
    try:
        unreadable, kept_N, digest = _write_records(folder, unfinished, options, workers, on_progress)
        _report(out, left_out + unreadable)
        if len(unreadable) == len(folder):
            raise ValueError(
                f"none of the {len(folder)} files decodes, the first is {unreadable[0].path} ({unreadable[0].reason}); "
                f"all are listed in {_report_path(out)}"
            )
        if unreadable and on_bad == "fail":
            _refuse_unreadable(out, unreadable, len(folder))
        targets_K = folder.targets[kept_N]
        check_no_empty_class(folder.class_names, targets_K, folder.root)
        _finish(folder, targets_K, out, options, digest)
    finally:
        unfinished.unlink(missing_ok=True)
        manifest_path(unfinished).unlink(missing_ok=True)
    return WriteReport(len(targets_K), left_out + unreadable, already_there=False)


def prepare_digit_betons(digits: Path) -> Path:
    """Betons of the digits beside their folder, written once; several processes may call it together.

    Returns:
        the folder that holds ``train.beton`` and ``val.beton``.
    """
    finished = digits.parent / FFCV_FOLDER
    if finished.is_dir():
        return finished
    unfinished = digits.parent / f".{FFCV_FOLDER}-{socket.gethostname()}-{os.getpid()}"
    try:
        for part in ("train", "val"):
            write_beton(digits / part, unfinished / f"{part}.beton", WriteOptions(mode="raw", max_resolution=64))
        move_into_place(unfinished, finished)
    finally:
        if unfinished.is_dir():
            for file in unfinished.iterdir():
                file.unlink()
            unfinished.rmdir()
    return finished


def _write_records(
    folder: ImageFolder, unfinished: Path, options: WriteOptions, workers: int, on_progress: Progress
) -> tuple[list[Unreadable], NDArray[np.int64], str]:
    """The files that did not decode, the places in the folder of those that did, and the digest of their records."""
    writer = _record_writer()(unfinished, folder, options, workers)
    reasons = writer.write(on_progress)
    kept_N = np.setdiff1d(np.arange(len(folder)), np.fromiter(reasons, dtype=np.int64, count=len(reasons)))
    return [Unreadable(str(folder.path(index)), reasons[index]) for index in sorted(reasons)], kept_N, writer.digest


def _record_writer() -> type["RecordWriter"]:
    """The class that writes with FFCV's package.

    Raises:
        ValueError: FFCV or something that it needs is missing; the message explains how to install it.
    """
    native()
    # FFCV's import starts numba's threads, which nothing here uses; those of TBB complain at every later fork.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    try:
        from vitaos.data.ffcv.records import RecordWriter  # noqa: PLC0415  # FFCV is optional, and seconds to import
    except (ImportError, OSError) as error:
        raise ValueError(f"{INSTALL_HINT} (import said: {error})") from error
    return RecordWriter


def _finish(folder: ImageFolder, targets_K: NDArray[np.int64], out: Path, options: WriteOptions, digest: str) -> None:
    """Check the written file by opening it, write its manifest, and give both their names."""
    unfinished = _unfinished_name(out)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    beton = open_beton(unfinished)
    assert np.array_equal(beton.targets, targets_K), "labels were written in another order"
    manifest = BetonManifest(
        num_images=len(targets_K),
        class_names=folder.class_names,
        class_counts=np.bincount(targets_K, minlength=len(folder.class_names)).tolist(),
        options=asdict(options),
        source=str(folder.root.resolve()),
        skipped=len(folder) - len(targets_K),
        size=unfinished.stat().st_size,
        checksums=all_checksums(unfinished, beton.sections) | {RECORDS: digest, IMAGES: _identity(folder)},
    )
    del beton
    write_manifest(manifest, manifest_path(unfinished))
    # The manifest first: a beton without its manifest would pass for one written elsewhere.
    manifest_path(unfinished).replace(manifest_path(out))
    unfinished.replace(out)
    sync_folder(out.parent)


def _refuse_out_among_images(folder: ImageFolder, out: Path) -> None:
    root, place = folder.root.resolve(), out.resolve().parent
    if place != root and place.is_relative_to(root) and not place.relative_to(root).parts[0].startswith("."):
        raise ValueError(f"out={out} lies in a class folder of {folder.root}, among the images: choose another place")


def _finished_before(folder: ImageFolder, out: Path, options: WriteOptions, on_bad: OnBad) -> WriteReport | None:
    """A report when the same beton is there already; ValueError when a different one is."""
    manifest = read_manifest(out)
    if not out.is_file():
        return None
    remedy = "remove it, or choose another out"
    if manifest is None:
        raise ValueError(f"{out} is there already and has no manifest: {remedy}")
    if manifest.size != out.stat().st_size:
        raise ValueError(
            f"{out} is there already but damaged ({out.stat().st_size} bytes of {manifest.size}): {remedy}"
        )
    wanted = asdict(options)
    differs = [f"{key}={manifest.options.get(key)}" for key in wanted if manifest.options.get(key) != wanted[key]]
    if manifest.source != str(folder.root.resolve()):
        differs.append(f"source={manifest.source}")
    if manifest.num_images + manifest.skipped != len(folder):
        differs.append(f"{manifest.num_images + manifest.skipped} files")
    counts = np.bincount(folder.targets, minlength=len(folder.class_names)).tolist()
    if manifest.class_names != folder.class_names or (manifest.skipped == 0 and manifest.class_counts != counts):
        differs.append("other classes or other counts of them")
    if not differs and IMAGES in manifest.checksums and manifest.checksums[IMAGES] != _identity(folder):
        differs.append(f"other images than {folder.root} holds now (names or content)")
    if differs:
        raise ValueError(f"{out} is there already, written with {', '.join(differs)}: {remedy}")
    open_beton(out)
    left_out = _reported(out)
    missing = max(len(left_out), manifest.skipped)
    if missing and on_bad == "fail":
        where = f" (listed in {_report_path(out)})" if left_out else ""
        raise ValueError(
            f"{out} is there already, without {missing} file(s) that could not be read{where}: mend them and remove "
            "it, or keep it so with on_bad=skip"
        )
    left_out += [Unreadable("?", f"{_report_path(out)} is gone")] * (missing - len(left_out))
    return WriteReport(manifest.num_images, left_out, already_there=True)


def _identity(folder: ImageFolder) -> str:
    """What a folder holds, as far as names and the beginnings of up to 2,048 files tell."""
    found = folder.fingerprint()
    return f"{found['sha256']}:{found['sample']}"


def _report_path(out: Path) -> Path:
    return out.with_name(out.name + ".unreadable.txt")


def _report(out: Path, unreadable: list[Unreadable]) -> None:
    """List the unreadable files with their reasons; no list when there are none."""
    if not unreadable:
        _report_path(out).unlink(missing_ok=True)
        return
    lines = [f"{item.path}\t{' '.join(item.reason.split())}\n" for item in unreadable]
    _report_path(out).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _reported(out: Path) -> list[Unreadable]:
    """What :func:`_report` wrote."""
    if not _report_path(out).is_file():
        return []
    lines = _report_path(out).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    return [Unreadable(path, reason) for path, _, reason in (line.rpartition("\t") for line in lines) if path]


def _left_out(folder: ImageFolder, item: Unusable) -> Unreadable:
    return Unreadable(str(folder.root / item.path), item.reason)


def _refuse_unreadable(out: Path, unreadable: list[Unreadable], files: int) -> NoReturn:
    _report(out, unreadable)
    raise ValueError(
        f"{len(unreadable)} of {files} files do not decode, the first is {unreadable[0].path} "
        f"({unreadable[0].reason}); all are listed in {_report_path(out)}. "
        "Repair or remove them, or leave them out with on_bad=skip"
    )


def _unfinished_name(out: Path) -> Path:
    return out.with_name(f".{out.name}.{socket.gethostname()}.{os.getpid()}.writing")


def _remove_leftovers(out: Path) -> None:
    """Files of writers on this machine that were killed."""
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.{socket.gethostname()}.*.writing*"):
        process = leftover.name.split(".writing")[0].rsplit(".", 1)[1]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):
                leftover.unlink()
        except (ValueError, PermissionError):
            continue
