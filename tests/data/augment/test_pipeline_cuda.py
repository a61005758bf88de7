"""On a GPU: the same images as on the CPU, and not one wait for the device."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from flat_settings import device_augment, mix_only
from numpy.typing import NDArray

from vitaos.batch import Batch
from vitaos.data.augment.pipeline import EvalNormalize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]


def batch_of(crops: NDArray[np.uint8], device: str) -> Batch:
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    return Batch(images.to(device), (torch.arange(len(crops)) % 10).to(device), torch.arange(len(crops)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"randaugment": None, "color_jitter": 0.4},
        {"randaugment": None, "three_augment": True, "color_jitter": 0.3},
        {"channels_last": True, "erasing": 1.0},
    ],
    ids=["recipe", "jitter", "three_augment", "channels_last"],
)
def test_cuda_gives_the_images_of_the_cpu(crops: NDArray[np.uint8], settings: dict[str, Any]) -> None:
    transform = device_augment(img_size=crops.shape[1], num_classes=10, seed=3, mixup=0.0, cutmix=0.0, **settings)
    for epoch in range(2):
        on_cpu, _ = transform(batch_of(crops, "cpu"), epoch=epoch, step=epoch)
        on_gpu, _ = transform(batch_of(crops, "cuda"), epoch=epoch, step=epoch)
        difference = (on_gpu.cpu() - on_cpu).abs()
        # A fused multiply-add may tip a gray level (1 / 255 / std); the second layer can widen that at steep tables.
        assert (difference > 1e-4).float().mean().item() < 0.002
        assert difference.mean().item() < 1e-3


def test_mixed_targets_agree(crops: NDArray[np.uint8]) -> None:
    transform = device_augment(img_size=crops.shape[1], num_classes=10, seed=3)
    for step in range(4):
        on_cpu = transform(batch_of(crops, "cpu"), epoch=0, step=step)[1]
        on_gpu = transform(batch_of(crops, "cuda"), epoch=0, step=step)[1]
        torch.testing.assert_close(on_gpu.cpu(), on_cpu)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_waiting")
def test_nothing_waits_for_the_device(crops: NDArray[np.uint8]) -> None:
    full = device_augment(img_size=crops.shape[1], num_classes=10, seed=3)
    three = device_augment(img_size=crops.shape[1], num_classes=10, seed=3, randaugment=None, three_augment=True)
    mix, evaluate = mix_only(num_classes=10, seed=3), EvalNormalize()
    batch = batch_of(crops, "cuda")

    def step(number: int) -> None:
        for transform in (full, three):
            transform(batch, epoch=0, step=number)
        mix(batch._replace(images=evaluate(batch.images)), epoch=0, step=number)

    step(0)  # constants reach the device and memory is taken on the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for number in range(1, 4):
        step(number)
