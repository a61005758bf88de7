"""The transform as the engine calls it: what goes in and out, and that nothing has a history."""

import numpy as np
import pytest
import torch
from flat_settings import device_augment, mix_only
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import Batch
from vitaos.data.augment.op_batch import Operation
from vitaos.data.augment.pipeline import (
    EvalNormalize,
)
from vitaos.data.augment.settings import IMAGENET_MEAN, IMAGENET_STD
from vitaos.data.augment.staging import StagingBuffer

SETTINGS = {"img_size": 32, "num_classes": 10, "seed": 4}
NO_MIX = {"mixup": 0.0, "cutmix": 0.0}


def batch_of(images: Tensor, positions: list[int] | range) -> Batch:
    return Batch(images, torch.arange(len(images)) % 10, torch.tensor(list(positions)))


@pytest.fixture
def images(crops: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(crops[:24, :32, :32]).permute(0, 3, 1, 2).contiguous()


def test_recipe_gives_normalized_images_and_mixed_targets(images: Tensor) -> None:
    before = images.clone()
    out, targets = device_augment(**SETTINGS)(batch_of(images, range(24)), epoch=0, step=0)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert targets.shape == (24, 10)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(24))
    assert torch.equal(images, before), "the batch of the loader is left alone"
    assert not torch.equal(out, EvalNormalize()(images))


@pytest.mark.parametrize("three_augment", [False, True])
def test_an_image_gets_the_same_draws_in_any_batch(images: Tensor, three_augment: bool) -> None:
    settings = {"three_augment": True, "randaugment": None} if three_augment else {}
    transform = device_augment(**SETTINGS, **NO_MIX, erasing=0.5, **settings)
    whole, targets = transform(batch_of(images, range(100, 124)), epoch=2, step=9)
    assert targets.dtype == torch.int64
    for ranks in (2, 3, 4):
        for rank in range(ranks):
            share = list(range(rank, 24, ranks))
            part, _ = transform(batch_of(images[share], [100 + p for p in share]), epoch=2, step=9)
            assert torch.equal(part, whole[share])
    again = device_augment(**SETTINGS, **NO_MIX, erasing=0.5, **settings)
    assert torch.equal(again(batch_of(images, range(100, 124)), epoch=2, step=9)[0], whole)
    assert not torch.equal(transform(batch_of(images, range(100, 124)), epoch=3, step=9)[0], whole)
    assert not torch.equal(transform(batch_of(images, range(124, 148)), epoch=2, step=9)[0], whole)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_any_batch_size(images: Tensor, size: int) -> None:
    out, targets = device_augment(**SETTINGS, erasing=1.0)(batch_of(images[:size], range(size)), epoch=0, step=1)
    assert out.shape[0] == targets.shape[0] == size
    assert out.isfinite().all()


def test_images_need_not_be_square_nor_divide_by_eight(crops: NDArray[np.uint8]) -> None:
    images = torch.from_numpy(crops[:20, :17, :13]).permute(0, 3, 1, 2)
    transform = device_augment(img_size=(17, 13), num_classes=10, seed=0, erasing=0.5)
    for step in range(4):
        out, _ = transform(batch_of(images, range(20 * step, 20 * step + 20)), epoch=0, step=step)
        assert out.shape == (20, 3, 17, 13)
        assert out.isfinite().all()


def test_flips_and_nothing_else(images: Tensor) -> None:
    transform = device_augment(**SETTINGS, **NO_MIX, randaugment=None, color_jitter=None, erasing=0.0)
    many = images[:1].expand(2000, -1, -1, -1)
    out, _ = transform(batch_of(many, range(2000)), epoch=0, step=0)
    plain = EvalNormalize()(images[:1])
    straight = (out == plain).flatten(1).all(1)
    mirrored = (out == plain.flip(-1)).flatten(1).all(1)
    assert (straight ^ mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.04)
    never = device_augment(**SETTINGS, **NO_MIX, hflip=0.0, randaugment=None, color_jitter=None, erasing=0.0)
    assert torch.equal(never(batch_of(many[:9], range(9)), epoch=0, step=0)[0], plain.expand(9, -1, -1, -1))


def test_normalization_is_timms(images: Tensor) -> None:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    expected = (images.float() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    torch.testing.assert_close(EvalNormalize(IMAGENET_MEAN, IMAGENET_STD)(images), expected, atol=1e-5, rtol=1e-5)


def test_evaluation_leaves_normalized_images_as_they_are() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(EvalNormalize()(images), images)
    half = EvalNormalize(dtype=torch.bfloat16, channels_last=True)(images)
    assert half.dtype == torch.bfloat16
    assert half.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_type_and_memory_format_of_the_result(images: Tensor, dtype: torch.dtype) -> None:
    plain, _ = device_augment(**SETTINGS, erasing=0.5)(batch_of(images, range(24)), epoch=0, step=3)
    transform = device_augment(**SETTINGS, erasing=0.5, dtype=dtype, channels_last=True)
    out, targets = transform(batch_of(images, range(24)), epoch=0, step=3)
    assert out.dtype == dtype
    assert targets.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.float(), plain, atol=0.05, rtol=0.02)


def test_color_jitter_acts_only_without_randaugment() -> None:
    def operations(**settings: object) -> set[int]:
        layers = device_augment(**SETTINGS, **settings).draw_op_batches(0, np.arange(500))
        return {int(o) for layer in layers for o in layer.operations}

    jittered = {Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR}
    assert operations(randaugment=None, color_jitter=0.4) == jittered
    assert operations(randaugment=None, color_jitter=None) == set()
    assert len(device_augment(**SETTINGS, color_jitter=0.4).policies) == 1
    # timm keeps the jitter beside its "3a" sets.
    assert len(device_augment(**SETTINGS, randaugment="rand-n1-p1-t3a", color_jitter=0.4).policies) == 2
    three = operations(randaugment=None, three_augment=True, color_jitter=0.3)
    assert three == jittered | {Operation.SOLARIZE, Operation.GAUSSIAN_BLUR}


def test_mix_only_mixes_as_the_device_engine_does(images: Tensor) -> None:
    normalized = EvalNormalize()(images)
    kept = normalized.clone()
    device = device_augment(**SETTINGS, hflip=0.0, randaugment=None, color_jitter=None, erasing=0.0)
    timm = mix_only(num_classes=10, seed=4)
    for step in range(4):
        expected = device(batch_of(images, range(24)), epoch=0, step=step)
        got = timm(batch_of(normalized, range(24)), epoch=0, step=step)
        torch.testing.assert_close(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        assert torch.equal(normalized, kept)


def test_errors_name_what_is_wrong(images: Tensor) -> None:
    with pytest.raises(ValueError, match="augment=device expects uint8"):
        device_augment(**SETTINGS)(batch_of(images.float(), range(24)), epoch=0, step=0)
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        device_augment(img_size=64, num_classes=10, seed=0)(batch_of(images, range(24)), epoch=0, step=0)
    with pytest.raises(ValueError, match="augment=timm expects"):
        mix_only(num_classes=10, seed=0)(batch_of(images, range(24)), epoch=0, step=0)
    with pytest.raises(ValueError, match="three_augment"):
        device_augment(**SETTINGS, three_augment=True)
    with pytest.raises(ValueError, match="hflip=2"):
        device_augment(**SETTINGS, hflip=2.0)


def test_packed_parcel_arrives_whole() -> None:
    staging = StagingBuffer()
    arrays = [np.arange(5), np.float32([[1.5, 2.5]]), np.zeros((3, 7), np.uint8), np.float64([0.1])]
    handles = [staging.add(array) for array in arrays]
    device_tensors = staging.pack(pin_memory=False).on(torch.device("cpu"))
    for handle, array in zip(handles, arrays, strict=True):
        assert np.array_equal(device_tensors[handle].numpy(), array)
        assert device_tensors[handle].numpy().dtype == array.dtype
