"""The Triton kernels of the augmentation on the CPU: run by ``test_gpu_kernels.py`` with TRITON_INTERPRET=1."""

from typing import Any

import numpy as np
import pytest
import torch
from flat_settings import device_augment
from numpy.typing import NDArray
from test_op_executor import EXACT, FILL, GEOMETRIC, hard_images
from torch import Tensor

from vitaos.data.augment import gpu_kernels, gpu_mixing
from vitaos.data.augment.gpu_plan import Draws, plan_for_gpu
from vitaos.data.augment.mixup import Mix, mix_images
from vitaos.data.augment.op_batch import OpBatch, Operation
from vitaos.data.augment.op_executor import apply_op_batch

ALL = [(operation, argument or 0.0) for operation, _, arguments in EXACT + GEOMETRIC for argument in arguments]
FEW = [(operation, arguments[-1] or 0.0) for operation, _, arguments in EXACT + GEOMETRIC]


def by_kernels(images: Tensor, op_batch: OpBatch) -> Tensor:
    nothing = Draws(np.zeros(len(images), np.bool_), [op_batch], np.empty((0, 5), np.int64), np.empty(0, np.uint64))
    plan = plan_for_gpu(nothing, np.array(FILL, np.uint8), images.shape[2], images.shape[3], pin_memory=False)
    there = plan.parcel.on(images.device)
    for layer in plan.layers:
        images = gpu_kernels.apply_layer(
            images, there[layer.operations], there[layer.parameters], there[plan.fill], statistics=layer.statistics
        )
    return images


@pytest.mark.parametrize("cases", [FEW, pytest.param(ALL, marks=pytest.mark.long)], ids=["few", "all"])
def test_every_operation_is_that_of_torch(crops: NDArray[np.uint8], cases: list[tuple[Operation, float]]) -> None:
    """Each case on one of five images, in one batch."""
    height, width = 17, 21
    few = [torch.from_numpy(image[:height, :width].copy()) for image in (crops[7], *hard_images())]
    images = torch.stack([few[number % len(few)] for number in range(len(cases))]).permute(0, 3, 1, 2).contiguous()
    op_batch = OpBatch(np.array([int(case[0]) for case in cases]), np.array([float(case[1]) for case in cases]))
    expected = apply_op_batch(images, op_batch, np.array(FILL, np.uint8))
    found = by_kernels(images, op_batch)
    for (operation, argument), one, other in zip(cases, found, expected, strict=True):
        difference = (one.int() - other.int()).abs()
        assert difference.max() == 0, f"{operation.name}({argument}) is off by {int(difference.max())}"


@pytest.mark.parametrize(
    "settings",
    [
        {"erasing": 0.8, "erasing_count": 3},
        {"erasing": 1.0, "erasing_mode": "rand", "channels_last": True, "dtype": torch.float16},
        {"erasing": 1.0, "erasing_mode": "const", "hflip": 0.0, "randaugment": None},
        {"erasing": 0.0, "randaugment": None, "color_jitter": 0.4, "three_augment": True},
    ],
)
def test_a_batch_is_that_of_torch(crops: NDArray[np.uint8], settings: dict[str, Any]) -> None:
    transform = device_augment(img_size=(24, 20), num_classes=10, seed=3, **settings)
    images = torch.from_numpy(crops[:6, :24, :20]).permute(0, 3, 1, 2)  # channels-last, as the loaders give them
    positions = np.arange(100, 100 + len(images))
    expected = transform._by_torch(images, 1, positions)
    found = transform._by_kernels(images, transform.plan(1, positions))
    assert found.dtype == expected.dtype
    assert found.stride() == expected.stride()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [4, 5])
def test_blended_pairs_are_those_of_torch(batch: int, layout: torch.memory_format) -> None:
    images = torch.randn(batch, 3, 20, 24, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    expected = mix_images(images.clone(), Mix(0.3, None))
    gpu_mixing.blend_pairs(images, 0.3)
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)  # the interpreter has no fused multiply-add
