"""Random erasing against timm's RandomErasing, and its noise against what it must be: normal, and without history."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from timm.data import random_erasing as timm_erasing
from torch import Tensor

from vitaos.counter_rng import _finalize
from vitaos.data.augment.erasing import RandomErasing, hash_bits, normal_quantiles
from vitaos.data.augment.staging import StagingBuffer

IMAGES = 12_000


class RecordingImage:
    """Stands for an image in timm's code and records the slices that are assigned to."""

    def __init__(self) -> None:
        self.boxes: list[tuple[int, int, int, int]] = []

    def __setitem__(self, key: tuple[slice, slice, slice], value: Tensor) -> None:
        rows, columns = key[1], key[2]
        self.boxes.append((rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start))


def timm_boxes(size: int, **settings: object) -> tuple[NDArray[np.int64], int]:
    random.seed(0)
    eraser = timm_erasing.RandomErasing(mode="const", device="cpu", **settings)
    boxes, erased = [], 0
    for _ in range(IMAGES):
        image = RecordingImage()
        eraser._erase(image, 3, size, size, torch.float32)
        boxes += image.boxes
        erased += bool(image.boxes)
    return np.array(boxes), erased


def erase(eraser: RandomErasing, images: Tensor, positions: list[int], epoch: int = 0) -> Tensor:
    staging = StagingBuffer()
    boxes = eraser.plan(staging, epoch, np.array(positions), images.shape[2], images.shape[3])
    return eraser.apply(images.clone(), boxes, staging.send(images.device))


@pytest.mark.parametrize(("size", "count"), [(224, 1), (16, 1), (64, 3)])
def test_rectangles_are_distributed_as_timms(size: int, count: int) -> None:
    theirs, their_images = timm_boxes(size, probability=0.25, max_count=count)
    eraser = RandomErasing(seed=2, probability=0.25, count=count)
    boxes, keys = eraser.draw(0, np.arange(IMAGES), size, size)
    images = len(np.unique(boxes[:, 0]))
    assert len(keys) == len(boxes) == len(np.unique(keys))
    assert stats.chi2_contingency([[images, IMAGES - images], [their_images, IMAGES - their_images]]).pvalue > 1e-3
    assert len(boxes) == pytest.approx(len(theirs), rel=0.08)
    mine = boxes[:, 1:]
    assert (mine[:, 2] < size).all()
    assert (mine[:, 3] < size).all()
    assert (mine[:, 0] + mine[:, 2] <= size).all()
    assert (mine[:, 1] + mine[:, 3] <= size).all()
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 2] / b[:, 3],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "bottom": lambda b: b[:, 0] + b[:, 2],
    }.items():
        assert stats.ks_2samp(of(mine), of(theirs)).pvalue > 1e-3, name


def test_pixels_are_normal_noise_inside_and_untouched_outside() -> None:
    eraser = RandomErasing(seed=0, probability=1.0)
    out = erase(eraser, torch.full((40, 3, 96, 96), 9.0), list(range(40)))
    boxes, _ = eraser.draw(0, np.arange(40), 96, 96)
    noise = []
    for number, top, left, height, width in boxes:
        assert (out[number] != 9.0).sum().item() == 3 * height * width
        noise.append(out[number, :, top : top + height, left : left + width].reshape(3, -1))
    values = torch.cat(noise, dim=1).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.02
    neighbors = np.concatenate([n[0, :-1].numpy() for n in noise]), np.concatenate([n[0, 1:].numpy() for n in noise])
    assert abs(np.corrcoef(*neighbors)[0, 1]) < 0.02
    assert values.mean() == pytest.approx(0.0, abs=0.01)
    assert values.std() == pytest.approx(1.0, abs=0.01)


def test_noise_is_a_function_of_seed_epoch_and_position() -> None:
    eraser = RandomErasing(seed=7, probability=1.0)
    images = torch.zeros(6, 3, 32, 32)
    whole = erase(eraser, images, [0, 1, 2, 3, 4, 5])
    assert torch.equal(erase(eraser, images[:3], [4, 0, 5]), whole[[4, 0, 5]])
    assert not torch.equal(erase(eraser, images, [0, 1, 2, 3, 4, 5], epoch=1), whole)
    assert not torch.equal(erase(RandomErasing(seed=8, probability=1.0), images, [0, 1, 2, 3, 4, 5]), whole)


def test_memory_format_does_not_matter() -> None:
    eraser = RandomErasing(seed=7, probability=1.0)
    images = torch.zeros(4, 3, 20, 24)
    plain = erase(eraser, images, [0, 1, 2, 3])
    last = erase(eraser, images.to(memory_format=torch.channels_last), [0, 1, 2, 3])
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_modes() -> None:
    images = torch.full((8, 3, 32, 32), 5.0)
    flat = erase(RandomErasing(seed=0, probability=1.0, mode="const"), images, list(range(8)))
    assert set(flat.unique().tolist()) == {0.0, 5.0}
    colors = erase(RandomErasing(seed=0, probability=1.0, mode="rand"), images, list(range(8)))
    assert all(len(image[channel].unique()) == 2 for image in colors for channel in range(3))
    assert len(colors.unique()) == 8 * 3 + 1
    assert torch.equal(erase(RandomErasing(seed=0, probability=0.0), images, list(range(8))), images)


def test_hash_is_splitmix_in_unsigned_arithmetic() -> None:
    keys = np.array([0, 1, 2**63 + 11, 2**64 - 1], np.uint64)
    counters = np.array([0, 5, 50175, 2**40], np.uint64)
    with np.errstate(over="ignore"):
        expected = _finalize(keys + counters * np.uint64(0x9E3779B97F4A7C15))
    got = hash_bits(torch.from_numpy(keys.view(np.int64)), torch.from_numpy(counters.view(np.int64)))
    assert got.numpy().view(np.uint64).tolist() == expected.tolist()


def test_quantiles_are_standard_normal() -> None:
    quantiles = normal_quantiles().double()
    assert quantiles.var(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    assert quantiles[0].item() == pytest.approx(-quantiles[-1].item())
    assert 4.0 < quantiles[-1].item() < 4.5


@pytest.mark.parametrize("wrong", [{"mode": "pixels"}, {"probability": 1.2}, {"count": 0}])
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        RandomErasing(seed=0, **wrong)
