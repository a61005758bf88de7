"""A step that counts, a step that does not, and what both do to the state."""

from typing import Any

import pytest
import torch
from miniature import CLASSES, assert_same, copy_of, follow_grad_scaler, tiny_vit
from timm.utils import ModelEmaV3
from torch import nn

from vitaos.engine.ema import ModelEma
from vitaos.engine.loss import CrossEntropy
from vitaos.engine.optim import build_optimizer
from vitaos.engine.precision import LossScale, build_precision
from vitaos.engine.update import Guard, Update

CPU = torch.device("cpu")


class Rig:
    """A model with all that an update touches."""

    def __init__(
        self, *, optimizer: str = "adamw", mode: str = "skip", clip: float | None = None, fp16: bool = False
    ) -> None:
        self.model = tiny_vit()
        self.ema = ModelEma(self.model, decay=0.9)
        self.scale = LossScale(CPU) if fp16 else None
        self.guard = Guard(mode, CPU)
        self.optimizer = build_optimizer(self.model, name=optimizer, lr=1e-3, weight_decay=0.05)
        self.update = Update(self.optimizer, clip=clip, guard=self.guard, loss_scale=self.scale, ema=self.ema)

    def step(self, number: int, *, poison: bool = False) -> None:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(4, 3, 8, 8, generator=generator)
        loss = CrossEntropy()(self.model(images), torch.arange(4) % CLASSES)
        loss.backward(self.update.loss_gradient(loss * torch.nan if poison else loss, 1.0))
        self.update.apply(self.model, number, 1e-3)
        self.update.zero_grad()

    def state(self) -> dict[str, Any]:
        return copy_of(
            {
                "model": self.model.state_dict(),
                "ema": self.ema.module.state_dict(),
                "optimizer": self.optimizer.state_dict()["state"],
            }
        )


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd"])
def test_a_skipped_step_leaves_no_trace(optimizer: str) -> None:
    disturbed, calm = Rig(optimizer=optimizer), Rig(optimizer=optimizer)
    for number in range(4):
        if number != 2:
            calm.step(number)
        disturbed.step(number, poison=number == 2)
        if number == 2:
            assert_same(disturbed.state(), calm.state())
    assert_same(disturbed.state(), calm.state())
    assert disturbed.update.decides_on_device == (optimizer == "adamw")


def test_a_poisoned_first_step_leaves_no_trace() -> None:
    disturbed, calm = Rig(), Rig()
    disturbed.step(0, poison=True)
    disturbed.step(1)
    calm.step(1)
    assert_same(disturbed.state(), calm.state())


def test_stop_freezes_the_state_before_the_bad_step() -> None:
    rig = Rig(mode="stop")
    rig.step(0)
    before = rig.state()
    for number in (1, 2, 3):
        rig.step(number, poison=number == 1)
    assert int(rig.guard.first_bad_step) == 1
    assert_same(rig.state(), before)


def test_clipping_is_torch_clip_grad_norm() -> None:
    rig, model = Rig(clip=0.1), tiny_vit()
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
    for number in range(3):
        rig.step(number)
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        nn.functional.cross_entropy(model(images), torch.arange(4) % CLASSES).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
        optimizer.step()
        optimizer.zero_grad()
    for ours, theirs in zip(rig.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # Adam makes much of a key bias's rounding


def test_the_loss_scale_does_not_change_what_is_learnt() -> None:
    plain, scaled = Rig(clip=1.0), Rig(clip=1.0, fp16=True)
    for number in range(3):
        plain.step(number)
        scaled.step(number)
    for one, other in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_loss_scale_follows_torch_grad_scaler() -> None:
    ours = follow_grad_scaler(CPU)
    before = float(ours.scale)
    ours.update(torch.tensor(True), torch.tensor(True))
    assert float(ours.scale) == before  # frozen: as it was


def test_an_overflow_of_fp16_counts_as_non_finite_only_at_scale_one() -> None:
    rig = Rig(mode="stop", fp16=True)
    assert rig.scale is not None
    for number in range(16):
        rig.step(number, poison=True)
    assert float(rig.scale.scale) == 1.0
    assert int(rig.guard.first_bad_step) == -1
    rig.step(16, poison=True)
    assert int(rig.guard.first_bad_step) == 16


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_timms(warmup: bool) -> None:
    model = tiny_vit()
    ours, theirs = ModelEma(model, decay=0.97, warmup=warmup), ModelEmaV3(model, decay=0.97, use_warmup=warmup)
    for step in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
        ours.update_average(model, step, torch.tensor(False))
        theirs.update(model, step=step + 1 if warmup else None)
    for one, other in zip(ours.module.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_the_average_takes_any_memory_order_and_shared_weights_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[2].weight = model[1].weight
    average = ModelEma(model, decay=0.75)
    model.to(memory_format=torch.channels_last)
    before = copy_of(average.module.state_dict())
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    average.update_average(model, 0, torch.tensor(True))
    kept = {name: value for name, value in before.items() if value.is_floating_point()}
    assert_same({name: average.module.state_dict()[name] for name in kept}, kept)
    average.update_average(model, 0, torch.tensor(False))
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, before[name] + (0.25 if name in kept else 1), rtol=1e-6, atol=1e-6)


def test_smoothing_of_mixed_targets_is_timms() -> None:
    logits = torch.randn(6, CLASSES)
    labels, mixed = torch.arange(6), 0.3
    hard = nn.functional.one_hot(labels, CLASSES).float()
    soft = hard * mixed + hard.flip(0) * (1 - mixed)
    off, on = 0.1 / CLASSES, 0.9 + 0.1 / CLASSES
    timms = torch.where(hard.bool(), on, off) * mixed + torch.where(hard.flip(0).bool(), on, off) * (1 - mixed)
    expected = -(timms * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(CrossEntropy(0.1)(logits, soft), expected)
    torch.testing.assert_close(CrossEntropy(0.1)(logits, labels), CrossEntropy(0.1)(logits, hard))


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ValueError, match="bf16, fp16, fp32"):
        build_precision("fp8", CPU)
    with pytest.raises(ValueError, match="stop, skip"):
        Guard("ignore", CPU)
    with pytest.raises(ValueError, match="smoothing"):
        CrossEntropy(1.0)
    with pytest.raises(ValueError, match="decay"):
        ModelEma(tiny_vit(depth=1), decay=1.0)
