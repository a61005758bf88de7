"""The boxes: torchvision's distribution, torchvision's fallback, torchvision's evaluation view."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from vitaos.counter_rng import uniforms
from vitaos.data.crops import CROP_DRAWS, CropSettings, center_crop, random_resized_crop, training_crops

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
COUNT = 3000


def boxes(height: int, width: int, seed: int = 0) -> NDArray[np.int64]:
    draws = uniforms(seed, 0, np.arange(COUNT), 2, CROP_DRAWS)
    return random_resized_crop(np.full(COUNT, height), np.full(COUNT, width), draws, SCALE, RATIO)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (64, 64)])
def test_boxes_have_torchvisions_distribution(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(COUNT)])
    ours = boxes(height, width)
    assert np.all(ours >= [0, 0, 1, 1])
    assert np.all(ours[:, 0] + ours[:, 2] <= height)
    assert np.all(ours[:, 1] + ours[:, 3] <= width)
    for name, figure in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "shape": lambda box: box[:, 3] / box[:, 2],
    }.items():
        assert ks_2samp(figure(ours), figure(theirs)).pvalue > 1e-3, name


@pytest.mark.parametrize(("height", "width"), [(20, 1000), (1000, 20), (1, 300), (1, 1)])
def test_images_without_a_fitting_box_are_cut_in_the_center(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = {tuple(RandomResizedCrop.get_params(image, [0.9, 1.0], list(RATIO))) for _ in range(50)}
    draws = uniforms(0, 0, np.arange(50), 2, CROP_DRAWS)
    ours = random_resized_crop(np.full(50, height), np.full(50, width), draws, (0.9, 1.0), RATIO)
    assert {tuple(box) for box in ours.tolist()} == theirs


def test_a_box_belongs_to_its_position_alone() -> None:
    settings = CropSettings(SCALE, RATIO)
    sizes = np.array([100, 200, 300, 400])
    together = training_crops(settings, np.array([5, 6, 7, 8]), sizes, sizes[::-1], seed=3, epoch=1)
    alone = training_crops(settings, np.array([7]), sizes[2:3], sizes[::-1][2:3], seed=3, epoch=1)
    assert np.array_equal(together[2], alone[0])
    assert not np.array_equal(
        together, training_crops(settings, np.array([5, 6, 7, 8]), sizes, sizes[::-1], seed=3, epoch=2)
    )


def test_the_evaluation_size_must_hold_the_crop() -> None:
    assert center_crop(300, 400, 256, 224) == (256, 341, 16, 58)
    with pytest.raises(ValueError, match="eval_resize 200 is smaller than the image size 224"):
        center_crop(300, 400, 200, 224)
