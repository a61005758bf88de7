"""Resizing: Pillow's bicubic within a gray level, fresh memory, images that need no resizing left alone."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from vitaos.data.resize import RESIZERS, area, bicubic, crop_and_resize, empty_batch, resize_and_center_crop


def distance(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Mean difference in gray levels."""
    return float(np.abs(ours.astype(int) - theirs.astype(int)).mean())


@pytest.mark.parametrize("box", [(0, 0, 427, 640), (31, 57, 300, 280), (10, 5, 61, 97), (400, 600, 20, 33)])
def test_bicubic_is_pillows(photographs: list[NDArray[np.uint8]], box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    for photograph in photographs:
        cut = photograph[top : top + height, left : left + width]
        theirs = np.asarray(Image.fromarray(cut).resize((224, 160), Image.Resampling.BICUBIC))
        assert distance(bicubic(cut, 160, 224), theirs) < 0.2


def test_the_evaluation_view_is_torchvisions(photographs: list[NDArray[np.uint8]]) -> None:
    transform = Compose([Resize(146, InterpolationMode.BICUBIC), CenterCrop(128)])
    for photograph in photographs:
        for image in (photograph, np.ascontiguousarray(photograph[:, :301]), photograph[:128, :200]):
            ours = np.empty((128, 128, 3), dtype=np.uint8)
            resize_and_center_crop(image, 146, ours, bicubic)
            assert distance(ours, np.asarray(transform(Image.fromarray(image)))) < 0.2


@pytest.mark.parametrize("resize", ["bicubic", "area"])
def test_an_image_of_the_right_size_is_copied(photographs: list[NDArray[np.uint8]], resize: str) -> None:
    ours = np.empty((64, 64, 3), dtype=np.uint8)
    crop_and_resize(photographs[0], np.array([3, 5, 64, 64]), ours, RESIZERS[resize])
    assert np.array_equal(ours, photographs[0][3:67, 5:69])


def test_a_batch_is_channels_last_and_its_views_are_its_memory() -> None:
    images, views = empty_batch(2, 8)
    views[1, 2, 3] = (7, 8, 9)
    assert images.shape == (2, 3, 8, 8)
    assert images[1, :, 2, 3].tolist() == [7, 8, 9]
    assert images.stride(1) == 1


@pytest.mark.parametrize(
    ("height", "width", "out_height", "out_width"),
    [(427, 640, 160, 224), (300, 448, 150, 224), (61, 97, 224, 224), (400, 61, 224, 224), (61, 400, 224, 224)],
)
def test_area_is_ffcvs(
    photographs: list[NDArray[np.uint8]], height: int, width: int, out_height: int, out_width: int
) -> None:
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    from vitaos.data.ffcv.native import native  # noqa: PLC0415  # needs FFCV

    for photograph in photographs:
        cut = np.ascontiguousarray(photograph[:height, :width])
        theirs = np.empty((out_height, out_width, 3), dtype=np.uint8)
        native().resize_area(cut, theirs)
        ours = area(cut, out_height, out_width)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert distance(ours, theirs) < 0.15
