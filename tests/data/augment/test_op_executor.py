"""Every operation against timm's, that is Pillow's, at the same argument on photographs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment as timm_augment

from vitaos.data.augment import color_ops
from vitaos.data.augment.op_batch import OpBatch, Operation
from vitaos.data.augment.op_executor import apply_op_batch, mean_color

PillowFunction = Callable[..., Image.Image]
FILL = (124, 116, 104)

EXACT = [
    (Operation.AUTO_CONTRAST, timm_augment.auto_contrast, [None]),
    (Operation.EQUALIZE, timm_augment.equalize, [None]),
    (Operation.INVERT, timm_augment.invert, [None]),
    (Operation.POSTERIZE, timm_augment.posterize, [1, 2, 3, 4, 8]),
    (Operation.SOLARIZE, timm_augment.solarize, [0, 26, 128, 200, 256]),
    (Operation.SOLARIZE_ADD, timm_augment.solarize_add, [0, 45, 99, 110, 128]),
    (Operation.BRIGHTNESS, timm_augment.brightness, [0.1, 0.19, 0.5637, 1.0, 1.3, 1.9]),
    (Operation.CONTRAST, timm_augment.contrast, [0.1, 0.19, 0.5637, 1.0, 1.3, 1.9]),
    (Operation.COLOR, timm_augment.color, [0.0, 0.1, 0.5637, 1.0, 1.3, 1.9]),
    (Operation.SHARPNESS, timm_augment.sharpness, [0.1, 0.19, 0.5637, 1.0, 1.3, 1.9]),
    (Operation.GAUSSIAN_BLUR, timm_augment.gaussian_blur, [0.1, 0.5, 1.2345, 2.0]),
]
GEOMETRIC = [
    (Operation.ROTATE, timm_augment.rotate, [-30.0, -27.3, 0.0, 3.1, 30.0]),
    (Operation.SHEAR_X, timm_augment.shear_x, [-0.3, -0.011, 0.0, 0.27]),
    (Operation.SHEAR_Y, timm_augment.shear_y, [-0.3, -0.011, 0.0, 0.27]),
    (Operation.TRANSLATE_X, timm_augment.translate_x_rel, [-0.45, -0.013, 0.0, 0.123]),
    (Operation.TRANSLATE_Y, timm_augment.translate_y_rel, [-0.45, -0.013, 0.0, 0.123]),
]


def ours(images: list[NDArray[np.uint8]], operation: Operation, argument: float | None) -> list[NDArray[np.int64]]:
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    layer = OpBatch(np.full(len(images), int(operation)), np.full(len(images), argument or 0.0))
    out = apply_op_batch(batch, layer, np.array(FILL, np.uint8))
    return list(out.permute(0, 2, 3, 1).numpy().astype(np.int64))


def theirs(image: NDArray[np.uint8], function: PillowFunction, argument: float | None) -> NDArray[np.int64]:
    arguments = () if argument is None else (argument,)
    out = function(Image.fromarray(image), *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC)
    return np.asarray(out).astype(np.int64)


def hard_images() -> list[NDArray[np.uint8]]:
    """What photographs leave out, at an odd size: one flat gray, noise, two values, a ramp."""
    random = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(41)[None, :, None] * 6, (37, 41, 3))
    two = np.where(random.random((37, 41, 3)) < 0.01, 3, 250)
    flat, noise = np.full((37, 41, 3), 77), random.integers(0, 256, (37, 41, 3))
    return [image.astype(np.uint8) for image in (flat, noise, two, ramp)]


@pytest.mark.parametrize(("operation", "function", "arguments"), EXACT)
def test_point_operations_and_filters_equal_pillow(
    operation: Operation, function: PillowFunction, arguments: list[float | None], photographs: list[NDArray[np.uint8]]
) -> None:
    for images in (photographs, hard_images()):
        for argument in arguments:
            for image, out in zip(images, ours(images, operation, argument), strict=True):
                difference = np.abs(out - theirs(image, function, argument)).max()
                assert difference == 0, f"{operation.name}({argument}) is off by {difference}"


@pytest.mark.parametrize(("operation", "function", "arguments"), GEOMETRIC)
def test_geometric_operations_agree_with_pillow(
    operation: Operation, function: PillowFunction, arguments: list[float | None], photographs: list[NDArray[np.uint8]]
) -> None:
    for images in (photographs, hard_images()):
        for argument in arguments:
            for image, out in zip(images, ours(images, operation, argument), strict=True):
                difference = np.abs(out - theirs(image, function, argument))
                # Same kernel, same centers, same fill: only single against double precision may tip a fraction over.
                assert difference.max() <= 1, f"{operation.name}({argument}) is off by {difference.max()}"
                assert (difference > 0).mean() < 0.01


def test_a_geometric_operation_really_moves_and_fills(photographs: list[NDArray[np.uint8]]) -> None:
    out = ours(photographs, Operation.TRANSLATE_X, 0.25)[0]
    assert (out[:, -56:] == FILL).all()
    assert (out[:, :168] == photographs[0][:, 56:]).all()


def test_posterize_to_no_bits_is_black(photographs: list[NDArray[np.uint8]]) -> None:
    assert max(out.max() for out in ours(photographs, Operation.POSTERIZE, 0)) == 0


def test_each_image_of_a_mixed_layer_gets_its_own_operation(photographs: list[NDArray[np.uint8]]) -> None:
    cases = [(op, fn, args[-1]) for op, fn, args in EXACT + GEOMETRIC]
    batch = torch.from_numpy(np.stack([photographs[i % 2] for i in range(len(cases))])).permute(0, 3, 1, 2).contiguous()
    before = batch.clone()
    layer = OpBatch(np.array([int(op) for op, _, _ in cases]), np.array([float(a or 0) for _, _, a in cases]))
    out = apply_op_batch(batch, layer, np.array(FILL, np.uint8)).permute(0, 2, 3, 1).numpy().astype(np.int64)
    assert torch.equal(batch, before)
    for number, (operation, function, argument) in enumerate(cases):
        difference = np.abs(out[number] - theirs(photographs[number % 2], function, argument)).max()
        assert difference <= 1, operation.name


def test_histograms_count_every_value() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    counts = color_ops.histograms(images)
    assert counts.sum().item() == images.numel()
    assert counts[1, 2].tolist() == torch.bincount(images[1, 2].flatten().long(), minlength=256).tolist()


def test_fill_is_the_mean_color_as_timm_rounds_it() -> None:
    assert tuple(mean_color((0.485, 0.456, 0.406))) == FILL
