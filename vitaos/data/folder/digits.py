"""The embedded dataset: scikit-learn's 1,797 real handwritten digits (8x8) as image files in class folders.

Small enough to train on a laptop in seconds, real enough that accuracy means something: the whole path of a large
dataset (files, class folders, FFCV, training, evaluation) in miniature.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASS_NAMES: Final = [str(digit) for digit in range(10)]
VAL_PER_CLASS: Final = 36
"""Held-out images of each digit: a fifth, the same for every seed of a run."""

SPLIT_SEED: Final = 0
FOLDER: Final = "digits-1"
"""Name of the written folder; its number changes when the files would."""
FFCV_FOLDER: Final = f"{FOLDER}-ffcv"
"""Name of the folder with the same images as betons."""


def digits_folder(root: str | Path | None, *, ffcv: bool = False) -> Path:
    """Where the digits lie, or would: below `root`, by default ``~/.cache/vitaos``."""
    parent = Path(root) if root is not None else Path.home() / ".cache" / "vitaos"
    return parent / (FFCV_FOLDER if ffcv else FOLDER)


def prepare_digits(root: str | Path | None) -> Path:
    """Write the digits as ``{train,val}/<digit>/<number>.png`` below :func:`digits_folder`, once; several processes may
    call it together.

    Returns:
        the folder that holds ``train`` and ``val``.
    """
    finished = digits_folder(root)
    if finished.is_dir():
        return finished
    finished.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=finished.parent))
    try:
        _write_files(unfinished)
        unfinished.chmod(0o755)
        move_into_place(unfinished, finished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return finished


def move_into_place(unfinished: Path, finished: Path) -> None:
    """Give a finished folder its name; where another process was first, its equal result stays."""
    try:
        unfinished.rename(finished)
    except OSError:
        if not finished.is_dir():
            raise


def _write_files(folder: Path) -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415  # a second to import, and only the first run needs it

    digits = load_digits()
    images_N88, targets_N = digits.images, digits.target
    held_out_N = _held_out(targets_N)
    for number, (image_88, target) in enumerate(zip(images_N88, targets_N, strict=True)):
        split = "val" if held_out_N[number] else "train"
        path = folder / split / CLASS_NAMES[target] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        gray_88 = np.rint(image_88 * (255 / 16)).astype(np.uint8)
        Image.fromarray(gray_88).save(path)


def _held_out(targets_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The validation images: the same number of every digit, drawn once and for all."""
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    held_out_N = np.zeros(len(targets_N), dtype=bool)
    for target in range(len(CLASS_NAMES)):
        members = np.flatnonzero(targets_N == target)
        held_out_N[generator.permutation(members)[:VAL_PER_CLASS]] = True
    return held_out_N
