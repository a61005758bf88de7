"""ImageNet-C: the folders are found, the corruptions are the same every time, mCE is the paper's."""

from pathlib import Path

import numpy as np
import pytest

from vitaos.data.corruptions import (
    ALEXNET_ERRORS,
    CELLS,
    Corrupt,
    check_alike,
    corruption_errors,
    find_folders,
    mean_corruption_error,
)


def test_mce_is_relative_to_alexnet() -> None:
    alexnet = {cell: 100 * ALEXNET_ERRORS[cell[0]] for cell in CELLS}
    assert mean_corruption_error(alexnet) == pytest.approx(100)
    assert corruption_errors({cell: 0.5 * error for cell, error in alexnet.items()})["fog"] == pytest.approx(50)
    # The published mCE of ResNet-50 (76.7) from its published CE by corruption, to rounding.
    resnet = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]
    errors = dict(zip(ALEXNET_ERRORS, resnet, strict=True))
    assert mean_corruption_error({cell: errors[cell[0]] * ALEXNET_ERRORS[cell[0]] for cell in CELLS}) == pytest.approx(
        76.7, abs=0.5
    )


def test_folders_are_found_as_the_archives_unpack(tmp_path: Path) -> None:
    for index, (name, severity) in enumerate(CELLS):
        (tmp_path / ("" if index % 2 else "archive") / name / str(severity)).mkdir(parents=True)
    found = find_folders(tmp_path)
    assert list(found) == list(CELLS)
    (tmp_path / "archive" / "gaussian_noise" / "1").rmdir()
    with pytest.raises(ValueError, match=r"74 of ImageNet-C's 75 folders \(missing: gaussian_noise/1\)"):
        find_folders(tmp_path)
    with pytest.raises(ValueError, match="corrupt=true"):
        find_folders(tmp_path / "nowhere")


def test_a_folder_of_other_classes_is_named(tmp_path: Path) -> None:
    for name, severity in CELLS:
        for label in ("n01", "n02"):
            (tmp_path / name / str(severity) / label).mkdir(parents=True)
    check_alike(find_folders(tmp_path))
    (tmp_path / "fog" / "3" / "n01").rmdir()
    with pytest.raises(ValueError, match=r"fog/3 holds 1 class.* 2 \(missing: n01; unknown: none"):
        check_alike(find_folders(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (name == "glass_blur")) for name in ALEXNET_ERRORS
    ],  # numba compiles
)
def test_a_corruption_follows_from_the_image_and_its_index(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    original = image.copy()
    first = Corrupt(name, 3)(image, 7)
    np.random.normal(size=3)
    before = np.random.get_state()[1].copy()
    again = Corrupt(name, 3)(image, 7)
    assert (np.random.get_state()[1] == before).all()
    assert (first.dtype, first.shape) == (np.uint8, image.shape)
    assert (first == again).all()
    assert (image == original).all()
    assert not (first == image).all()


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        Corrupt("fog", 1)(np.zeros((16, 16, 3), np.uint8), 0)
