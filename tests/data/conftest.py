"""Real photographs (they ship with scikit-learn) cut into small datasets of class folders and betons."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = ("china", "flower", "mixed")
PER_CLASS = 17


@pytest.fixture(scope="session")
def photographs() -> list[NDArray[np.uint8]]:
    """Two color photographs of 427 x 640 pixels."""
    return [np.asarray(image, dtype=np.uint8) for image in load_sample_images().images]


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory, photographs: list[NDArray[np.uint8]]) -> Path:
    """train/ with 51 JPEGs of many sizes in three classes, val/ with 7: sizes that no number of ranks divides."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for part, count in (("train", PER_CLASS), ("val", 2)):
        for target, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count + (part == "val" and target == 0)):
                photograph = photographs[number % 2 if name == "mixed" else target]
                height, width = generator.integers(40, 180, size=2)
                top, left = generator.integers(0, 427 - height), generator.integers(0, 640 - width)
                cut = photograph[top : top + height, left : left + width]
                Image.fromarray(cut).save(folder / f"{number:02d}.jpg", quality=85)
    return root


@pytest.fixture(scope="session")
def photo_betons(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """The same images in betons: train.beton (half JPEG, half raw) and val.beton (JPEG)."""
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    from vitaos.data.ffcv.options import WriteOptions  # noqa: PLC0415  # needs FFCV
    from vitaos.data.ffcv.writer import write_beton  # noqa: PLC0415  # needs FFCV

    root = tmp_path_factory.mktemp("betons")
    write_beton(photo_folder / "train", root / "train.beton", WriteOptions("proportion", quality=95))
    write_beton(photo_folder / "val", root / "val.beton", WriteOptions("jpg", quality=95))
    return root
