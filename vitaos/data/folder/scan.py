"""Finding the images in class folders: each file once, whatever links lead to it, and nothing left out in silence."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitaos.data.corrupt_images import OnBad
from vitaos.data.folder.files import ImageFolder, check_no_empty_class

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
SIGNATURES: Final = (
    b"\xff\xd8",
    b"\x89PNG",
    b"BM",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"RIFF",
    *(b"P%d" % kind for kind in range(1, 8)),
)
_SYSTEM_FILES: Final = {"thumbs.db", "desktop.ini"}
_SHOWN: Final = 5

SIGNATURE_LIMIT: Final = 20_000
"""Up to this many files the first bytes of each are looked at before training starts (about a second), by one process
of each machine. Of larger datasets, ImageNet's 50,000 validation images among them, only the names: their files are
checked as they are decoded.
"""

Reasons = dict[int, str]  # number of a file -> why it is no image
Once = Callable[[Callable[[], Reasons]], Reasons]
"""Has one of several processes do it, and gives its result to all."""


log = logging.getLogger(__name__)


def by_itself(look: Callable[[], Reasons]) -> Reasons:
    """:data:`Once` of a single process."""
    return look()


class Unusable(NamedTuple):
    """What lies in a class folder and is none of its images.

    Attributes:
        path: below the data folder.
        reason: empty for a file that is simply no image.
    """

    path: str
    reason: str = ""


def scan_folder(root: str | Path, *, on_bad: OnBad = "fail", prepare: str = "", once: Once = by_itself) -> ImageFolder:
    """Find the classes and images below a folder.

    Args:
        root: folder with one folder a class.
        on_bad: whether what is not an image or cannot be read stops the scan (``fail``) or is left out and logged
            (``skip``).
        prepare: what to do when the folder is missing, added to the message.
        once: how processes of one machine that all scan it share the look at the files' first bytes.

    Raises:
        ValueError: folder missing, without class folders, with an empty class folder, or (``fail``) with something
            that is not an image, a second link to the same folder, or unreadable: named and counted.
    """
    every, unusable = list_files(root, prepare=prepare)
    names = [os.fsdecode(name) for name in every.files.tolist()]
    # Asked of all processes whatever the number of files: a copy of the data on another machine may have others.
    found = once(lambda: _look_at_starts(every))
    by_name = len(every) > SIGNATURE_LIMIT  # else the first bytes decide, as where FFCV files are written
    reasons = [
        "" if by_name and not name.lower().endswith(IMAGE_SUFFIXES) else found.get(index)
        for index, name in enumerate(names)
    ]
    unusable += [Unusable(name, reason) for name, reason in zip(names, reasons, strict=True) if reason is not None]
    if unusable and on_bad == "fail":
        raise ValueError(
            f"{describe_unusable(unusable, every.root)}. Remove them, or leave them out with data.on_bad=skip"
        )
    if unusable:
        log.warning("%s: left out", describe_unusable(unusable, every.root))
    good = np.array([reason is None for reason in reasons], dtype=bool)
    check_no_empty_class(every.class_names, every.targets[good], every.root)
    return replace(every, files=every.files[good], targets=every.targets[good])


def _look_at_starts(every: ImageFolder) -> Reasons:
    """The files that do not begin as an image; none where there are too many to look at."""
    if len(every) > SIGNATURE_LIMIT:
        return {}
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(_why_no_image, (every.path(index) for index in range(len(every))))
        return {index: reason for index, reason in enumerate(found) if reason is not None}


def list_files(root: str | Path, *, prepare: str = "") -> tuple[ImageFolder, list[Unusable]]:
    """Every regular file in the class folders, image or not, and what else lies there.

    Links to files and folders are followed; a folder that is reached a second time, or that holds the data folder, is
    unusable. Hidden files and what Windows leaves behind are passed over. Arguments and errors as :func:`scan_folder`.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"data folder {root} does not exist. {prepare}".strip())
    walk = _Walk(root)
    class_names = walk.class_names()
    if not class_names:
        broken = f" ({describe_unusable(walk.unusable, root)})" if walk.unusable else ""
        raise ValueError(
            f"{root} holds no class folders{broken}: images must lie in {root}/<class>/<file>. {prepare}".strip()
        )
    files: list[bytes] = []
    targets: list[int] = []
    for target, class_name in enumerate(class_names):
        names = sorted(walk.file_names(class_name))
        files += [os.fsencode(f"{class_name}/{name}") for name in names]
        targets += [target] * len(names)
    targets_N = np.array(targets, dtype=np.int64)
    try:
        check_no_empty_class(class_names, targets_N, root)
    except ValueError as error:
        if not walk.unusable:
            raise
        raise ValueError(f"{error}; {describe_unusable(walk.unusable, root)}") from error
    return ImageFolder(root, class_names, np.array(files), targets_N), walk.unusable


def class_folders(root: str | Path) -> list[str]:
    """The names of the class folders, in the order of their labels, without a look at what they hold."""
    return _Walk(Path(root)).class_names()


def describe_unusable(unusable: Sequence[Unusable], root: Path) -> str:
    """How many there are, and the first few with their reasons."""
    listed = [f"{item.path} ({item.reason})" if item.reason else item.path for item in unusable[:_SHOWN]]
    more = ", ..." if len(unusable) > _SHOWN else ""
    return f"{len(unusable)} file(s) or folder(s) below {root} are not images: {', '.join(listed)}{more}"


class _Walk:
    """Goes through the folders below ``root``, each one once; collects what is unusable on the way."""

    def __init__(self, root: Path) -> None:
        self.unusable: list[Unusable] = []
        self._root = str(root)
        self._real_root = os.path.realpath(root)
        self._real_paths: dict[str, str] = {}
        self._met: dict[str, str] = {}

    def class_names(self) -> list[str]:
        """The folders of the data folder, sorted."""
        return sorted(entry.name for entry in self._entries("") if self._is_new_folder(entry, "", self._real_root))

    def file_names(self, class_name: str) -> Iterator[str]:
        """Files of a class folder and of the folders in it, by their path below the class folder."""
        waiting = [class_name]
        while waiting:
            folder = waiting.pop()
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}"
                if self._is_new_folder(entry, folder, self._real_paths[folder]):
                    waiting.append(path)
                elif self._is_file(entry, path):
                    yield path[len(class_name) + 1 :]

    def _entries(self, folder: str) -> list["os.DirEntry[str]"]:
        """What lies in a folder, without hidden files."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:  # noqa: PTH118  # a million names
                return [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            self.unusable.append(Unusable(folder or ".", f"cannot be opened: {error.strerror}"))
            return []

    def _is_new_folder(self, entry: "os.DirEntry[str]", parent: str, real_parent: str) -> bool:
        """Whether it is a folder that was not met before."""
        path = f"{parent}/{entry.name}" if parent else entry.name
        try:
            if not entry.is_dir():
                if not parent and entry.is_symlink() and not Path(entry.path).exists():
                    self.unusable.append(Unusable(path, "a link to nothing"))
                return False
        except OSError:  # a link to itself
            if not parent:
                self.unusable.append(Unusable(path, "a link to nothing"))
            return False
        real = os.path.realpath(entry.path) if entry.is_symlink() else f"{real_parent}/{entry.name}"
        if f"{self._real_root}/".startswith(f"{real.rstrip('/')}/"):
            self.unusable.append(Unusable(path, f"a link to {real}, which holds the whole data"))
        elif real in self._met:
            self.unusable.append(Unusable(path, f"the same folder as {self._met[real]}: its images would count twice"))
        else:
            self._met[real] = path
            self._real_paths[path] = real
            return True
        return False

    def _is_file(self, entry: "os.DirEntry[str]", path: str) -> bool:
        """Whether it is a regular file, of those that are looked at."""
        if entry.name.lower() in _SYSTEM_FILES:
            return False
        try:
            if entry.is_dir():  # noted before
                return False
            if entry.is_file():
                return True
            exists = Path(entry.path).exists()
        except OSError:
            exists = False
        self.unusable.append(Unusable(path, "not a regular file" if exists else "a link to nothing"))
        return False


def _why_no_image(path: Path) -> str | None:
    """Why a file does not begin as an image that Pillow knows; None where it does."""
    try:
        with path.open("rb") as file:
            if file.read(8).startswith(SIGNATURES):
                return None
            file.seek(0)
            Image.open(file).close()
    except UnidentifiedImageError:
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, SyntaxError, Image.DecompressionBombError):  # an image, which decoding will complain about
        return None
    return None
