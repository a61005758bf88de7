"""ImageNet-C: 15 corruptions at 5 severities, from the published folders or made on the fly, and the mean corruption
error (Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
ICLR 2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitaos.counter_rng import derive_seed
from vitaos.data.folder.scan import class_folders
from vitaos.data.rng_streams import CORRUPTION

Corruption = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""What is done to an image (H, W, 3) of the dataset that has this index."""

ALEXNET_ERRORS: Final[Mapping[str, float]] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on each corruption, the mean over its severities, as the authors of ImageNet-C publish it
(github.com/hendrycks/robustness)."""

SEVERITIES: Final = range(1, 6)
SMALLEST: Final = 32
"""Pixels of the smallest image that the library corrupts."""

Cell = tuple[str, int]
"""A corruption and its severity."""
CELLS: Final[tuple[Cell, ...]] = tuple((name, severity) for name in ALEXNET_ERRORS for severity in SEVERITIES)


def find_folders(root: str | Path) -> dict[Cell, Path]:
    """The folder of class folders of each corruption and severity.

    Args:
        root: holds CORRUPTION/SEVERITY/CLASS/*, or those within the folders of the archives (noise, blur, weather,
            digital).

    Raises:
        ValueError: names those that are missing.
    """
    root = Path(root)
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    found: dict[Cell, Path] = {}
    for name, severity in CELLS:
        folders = (place / name / str(severity) for place in places)
        existing = next((folder for folder in folders if folder.is_dir()), None)
        if existing is not None:
            found[name, severity] = existing
    missing = [f"{name}/{severity}" for name, severity in CELLS if (name, severity) not in found]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise ValueError(
            f"{root} holds {len(found)} of ImageNet-C's {len(CELLS)} folders "
            f"(missing: {', '.join(missing[:5])}{more}): expected 15 corruptions x 5 "
            "severities as its archives unpack, gaussian_noise/1/n01440764/*.JPEG, ...; to make them from the images "
            "of the validation part: corrupt=true"
        )
    return found


def check_alike(folders: Mapping[Cell, Path]) -> None:
    """Hold the class folders of every corruption and severity against those of the first: a missing one would shift
    all labels behind it.

    Raises:
        ValueError: names the folder and the classes that differ.
    """
    expected = class_folders(folders[CELLS[0]])
    for path in folders.values():
        names = class_folders(path)
        if names != expected:
            missing, more = (sorted(one) for one in (set(expected) - set(names), set(names) - set(expected)))
            raise ValueError(
                f"{path} holds {len(names)} class folders, {folders[CELLS[0]]} {len(expected)} (missing: "
                f"{', '.join(missing[:5]) or 'none'}; unknown: {', '.join(more[:5]) or 'none'}): unpack both again"
            )


def warm_up() -> None:
    """Make each corruption once, so that processes forked from this one find the library imported and compiled."""
    image = np.zeros((SMALLEST, SMALLEST, 3), dtype=np.uint8)
    for name in ALEXNET_ERRORS:
        Corrupt(name, 1)(image, 0)


@dataclass(frozen=True)
class Corrupt:
    """A corruption made on the fly, the same for an image whatever was made before and by whichever process.

    The library is ``imagecorruptions``, in the edition kept up by imaug.

    Attributes:
        name: one of ImageNet-C's.
        severity: 1 to 5.
    """

    name: str
    severity: int

    def __call__(self, image_HW3: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """The image of this index in the dataset, corrupted.

        Raises:
            ValueError: it is smaller than 32 pixels.
        """
        from imagecorruptions import corrupt  # noqa: PLC0415  # optional, and slow to import

        if min(image_HW3.shape[:2]) < SMALLEST:
            raise ValueError(f"corrupt=true: images of {image_HW3.shape[0]} px; at least {SMALLEST} are needed")
        seed = derive_seed(CORRUPTION, list(ALEXNET_ERRORS).index(self.name), self.severity, index) % 2**32
        # Two of them take a seed, the rest draw from NumPy's generator, which is given back as it was.
        seeded: dict[str, Any] = {"seed": seed} if self.name in ("impulse_noise", "glass_blur") else {}
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            made: NDArray[np.uint8] = corrupt(
                np.array(image_HW3), corruption_name=self.name, severity=self.severity, **seeded
            )
        finally:
            np.random.set_state(state)
        return made


def corruption_errors(errors: Mapping[Cell, float]) -> dict[str, float]:
    """CE of each corruption in per cent: the sum of a model's top-1 errors over the severities, relative to AlexNet's.

    Args:
        errors: of each corruption and severity, in per cent.
    """
    return {
        name: float(np.mean([errors[name, severity] for severity in SEVERITIES])) / alexnet
        for name, alexnet in ALEXNET_ERRORS.items()
    }


def mean_corruption_error(errors: Mapping[Cell, float]) -> float:
    """mCE in per cent, the mean of the corruption errors; 100 is AlexNet."""
    return float(np.mean(list(corruption_errors(errors).values())))
