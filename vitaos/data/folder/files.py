"""Images in class folders: finding them, and decoding them with Pillow, whatever their format."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vitaos.data.corrupt_images import CorruptImageError, OnBad
from vitaos.data.fingerprint import fingerprint

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
SIGNATURE_LIMIT: Final = 50_000
"""Up to this many files the first bytes of each are looked at before training starts (about a second)."""


@dataclass(frozen=True)
class ImageFolder:
    """The files of a dataset in class folders.

    Attributes:
        root: the folder that holds one folder a class.
        class_names: the folders' names, sorted; an image's target is its folder's place in this list.
        files: (N,) paths below ``root`` as bytes, sorted inside each class.
        targets: (N,) int64.
    """

    root: Path
    class_names: list[str]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data whatever its path; see :func:`vitaos.data.fingerprint.fingerprint`."""
        return fingerprint("folder", self.class_names, self.targets, self.files.tobytes())

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(bytes(self.files[index]))

    def read(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            CorruptImageError: names the file that is not an image or is damaged.
        """
        return read_image(self.path(index))


def read_image(path: Path) -> Image.Image:
    """Decode a file of any kind Pillow knows (grayscale, CMYK, palette, 16 bit, ...) to RGB.

    Raises:
        CorruptImageError: names the file and the reason.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{path} is not a readable image: {decode_failure(error)}.") from error


def decode_failure(error: Exception) -> str:
    """Why an image was not read, in words for people: Pillow's would name the memory that it was read from."""
    return "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode; 16-bit grayscale keeps its upper 8 bits (Pillow's own conversion would clip it)."""
    if image.mode.startswith("I;16"):
        gray_HW = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(gray_HW).convert("RGB")
    return image.convert("RGB")


def scan_folder(root: str | Path, *, on_bad: OnBad = "fail", prepare: str = "") -> ImageFolder:
    """Find the classes and images below a folder.

    Args:
        root: folder with one folder a class.
        on_bad: whether files that are not images stop the scan (``fail``) or are left out (``skip``).
        prepare: what to do when the folder is missing, added to the message.

    Raises:
        ValueError: folder missing, without class folders, with an empty class folder, or (``fail``) with files that are
            not images: named and counted.
    """
    every = list_files(root, prepare=prepare)
    names = [os.fsdecode(name) for name in every.files.tolist()]
    good = np.array([name.lower().endswith(IMAGE_SUFFIXES) for name in names])
    if len(names) <= SIGNATURE_LIMIT:
        good &= _signatures_hold(every)
    strangers = [names[place] for place in np.flatnonzero(~good)]
    if strangers and on_bad == "fail":
        shown = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        raise ValueError(
            f"{len(strangers)} file(s) below {every.root} are not images: {shown}. "
            "Remove them, or leave them out with data.on_bad=skip"
        )
    check_no_empty_class(every.class_names, every.targets[good], every.root)
    return replace(every, files=every.files[good], targets=every.targets[good])


def list_files(root: str | Path, *, prepare: str = "") -> ImageFolder:
    """Every file in the class folders, image or not; arguments and errors as :func:`scan_folder`."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"data folder {root} does not exist. {prepare}".strip())
    class_names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not class_names:
        raise ValueError(f"{root} holds no class folders: images must lie in {root}/<class>/<file>. {prepare}".strip())
    files: list[bytes] = []
    targets: list[int] = []
    for target, class_name in enumerate(class_names):
        names = sorted(_file_names(root / class_name))
        files += [os.fsencode(f"{class_name}/{name}") for name in names]
        targets += [target] * len(names)
    check_no_empty_class(class_names, np.array(targets, dtype=np.int64), root)
    return ImageFolder(root, class_names, np.array(files), np.array(targets, dtype=np.int64))


def check_no_empty_class(class_names: list[str], targets_N: NDArray[np.int64], root: Path) -> None:
    """Raise ValueError with the names of the classes that have no image."""
    empty = np.flatnonzero(np.bincount(targets_N, minlength=len(class_names)) == 0)
    if len(empty):
        listed = ", ".join(class_names[target] for target in empty[:5])
        raise ValueError(f"{len(empty)} class folder(s) of {root} hold no image: {listed}. Fill or remove them")


def _file_names(folder: Path) -> Iterator[str]:
    """Files below a class folder, in folders of it too, without hidden ones and what Windows leaves behind."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(where, folder)
        for name in names:
            if not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
                yield name if below == "." else f"{below}/{name}"


def _signatures_hold(folder: ImageFolder) -> NDArray[np.bool_]:
    """Whether each file begins as an image does."""

    def holds(index: int) -> bool:
        with folder.path(index).open("rb") as file:
            return file.read(8).startswith(SIGNATURES)

    with ThreadPoolExecutor(8) as pool:
        return np.array(list(pool.map(holds, range(len(folder)))), dtype=bool)
