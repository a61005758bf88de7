"""A GPU computes what the CPU does: whole steps with the recipe's augmentation, and evaluation.

Tolerances: a loss in float32 agrees to 0.2 %, since a fused multiply-add may tip a gray level here and there; in
bfloat16 to 2 %. Evaluation of the same weights, without augmentation: to 0.01 %.
"""

from collections.abc import Iterator

import pytest
import torch
from miniature import (
    ALONE,
    CLASSES,
    EvaluationImages,
    RecordingSink,
    TrainImages,
    make_trainer,
    normalize,
    tiny_vit,
)

from vitaos import attach
from vitaos.batch import Batch
from vitaos.data.augment.pipeline import DeviceAugment
from vitaos.engine.evaluator import evaluate
from vitaos.engine.precision import build_precision
from vitaos.runtime.world import World, initialize, shutdown

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none here"),
]
DEVICE = "cuda"
ENLARGED = 6


@pytest.fixture
def world() -> Iterator[World]:
    yield initialize(DEVICE)
    shutdown()


class EnlargedImages(TrainImages):
    """The training images of 48 px, which leave the augmentation something to do."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start_step):
            images = batch.images.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
            yield batch._replace(images=images)


def line_of(world: World, precision: str) -> dict[str, float]:
    """The line of metrics of an epoch on a device."""
    model = attach(tiny_vit(img_size=8 * ENLARGED, patch_size=4 * ENLARGED), attnscale=True, featscale=True)
    sink = RecordingSink()
    trainer = make_trainer(
        world,
        model=model,
        precision=precision,
        transform=DeviceAugment(img_size=8 * ENLARGED, num_classes=CLASSES, seed=3),
        sinks=[sink],
        epochs=1,
        clip=1.0,
    )
    torch.set_float32_matmul_precision("highest")  # no TF32: the CPU has none
    trainer.loader = EnlargedImages(world, batch_size=12)
    number_format = build_precision(precision, ALONE.device)
    trainer.conclusion.evaluate = lambda judged: [
        result.metrics()
        for result in evaluate(
            judged,
            EvaluationImages(world),
            lambda images: normalize(images.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)),
            world=world,
            precision=trainer.precision if world.device.type == "cuda" else number_format,
            num_classes=CLASSES,
        )
    ]
    assert trainer.fit().status == "finished"
    return sink.lines[0]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 2e-2)])
def test_an_epoch_of_real_steps_is_that_of_the_cpu(world: World, precision: str, tolerance: float) -> None:
    on_device, on_cpu = line_of(world, precision), line_of(ALONE, precision)
    for name in ("train_loss", "val_loss", "ema_loss"):
        assert on_device[name] == pytest.approx(on_cpu[name], rel=tolerance), name


def test_an_evaluation_is_that_of_the_cpu(world: World) -> None:
    results = []
    for place in (world, ALONE):
        model = tiny_vit().to(place.device)
        number_format = build_precision("fp32", place.device)
        torch.set_float32_matmul_precision("highest")
        results += evaluate(
            [model],
            EvaluationImages(place),
            normalize,
            world=place,
            precision=number_format,
            num_classes=CLASSES,
            keep_predictions=True,
        )
    on_device, on_cpu = results
    assert on_device.count == on_cpu.count
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    assert on_device.predictions is not None
    assert on_cpu.predictions is not None
    assert (on_device.predictions.target == on_cpu.predictions.target).all()
    assert (on_device.predictions.predicted == on_cpu.predictions.predicted).mean() > 0.95
