"""Losses against timm's, drop path by block, and timm's schedules asked for in any order."""

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.layers import DropPath
from timm.loss import BinaryCrossEntropy
from timm.scheduler import create_scheduler_v2
from torch import nn

import vitaos
from vitaos.engine.drop_path import spread_drop_path
from vitaos.engine.loss import build_loss
from vitaos.engine.schedule import build_schedule
from vitaos.engine.timm_schedule import KINDS, Decay

LABELS = torch.tensor([0, 2, 1, 2])


def test_binary_cross_entropy_is_timms_on_labels_and_on_timms_mixed_targets() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for smoothing, threshold, summed in ((0.1, None, False), (0.1, 0.2, False), (0.0, 0.0, True)):
        wanted = BinaryCrossEntropy(smoothing, target_threshold=threshold, sum_classes=summed)
        loss = build_loss("bce", smoothing=smoothing, bce_threshold=threshold, bce_sum=summed)
        torch.testing.assert_close(loss(logits, LABELS), wanted(logits, LABELS))
        mixed = mixup_target(LABELS, 3, lam=0.3, smoothing=smoothing)
        own = 0.3 * F.one_hot(LABELS, 3) + 0.7 * F.one_hot(LABELS.flip(0), 3)
        torch.testing.assert_close(loss(logits, own), wanted(logits, mixed))
    with pytest.raises(ValueError, match="smoothed zeros could pass it"):
        build_loss("bce", smoothing=0.1, bce_threshold=0.0)


def test_the_jensen_shannon_loss_is_nothing_but_cross_entropy_where_views_agree() -> None:
    clean, other = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    loss = build_loss("jsd", smoothing=0.1)
    alike = loss(torch.cat([clean, clean, clean]), LABELS.repeat(3))
    torch.testing.assert_close(alike, F.cross_entropy(clean, LABELS, label_smoothing=0.1), atol=1e-5, rtol=1e-5)
    p, q = clean.softmax(1), other.softmax(1)
    middle = (2 * p + q) / 3
    divergence = (2 * (p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 3 / 4
    wanted = F.cross_entropy(clean, LABELS, label_smoothing=0.1) + 12 * divergence
    torch.testing.assert_close(loss(torch.cat([clean, clean, other]), LABELS.repeat(3)), wanted)


def rates(model: nn.Module) -> list[float]:
    return [
        round(getattr(getattr(block, "drop_path1", None), "drop_prob", 0.0), 6)
        for path, block in model.named_modules()
        if hasattr(block, "drop_path1") and "token_only" not in path
    ]


@pytest.mark.parametrize(("name", "own"), [("deit_ti12", [0, 0.1, 0.2]), ("cait_xxs24", [0.2, 0.2, 0.2])])
def test_drop_path_by_block(name: str, own: list[float]) -> None:
    with torch.device("meta"):
        model = vitaos.create_model(name, depth=3, drop_path_rate=0.2, featscale=True)
    if name.startswith("deit"):
        spread_drop_path(model, 0.2)
        assert rates(model) == own
        spread_drop_path(model, 0.2, reference_depth=2)
        assert rates(model) == [0, 0.15, 0.3]
    for spread, wanted in (("uniform", [0.2] * 3), ("linear", [0, 0.1, 0.2])):
        spread_drop_path(model, 0.2, spread=spread)
        found = [
            child.drop_prob if isinstance(child, DropPath) else 0.0
            for path, block in model.named_modules()
            if "token_only" not in path
            for key, child in block.named_children()
            if key in ("drop_path", "drop_path1")
        ]
        assert found == pytest.approx(wanted)
    with pytest.raises(ValueError, match="must be below 1"):
        spread_drop_path(model, 0.6, reference_depth=1)
    with pytest.raises(ValueError, match="ResNet has no blocks"):
        spread_drop_path(timm.create_model("test_resnet"), 0.1, spread="uniform")


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_schedules_are_timms_as_its_training_script_steps_them(kind: str, unit: str) -> None:
    epochs, per_epoch, warmup = 12, 3, 2
    decay = Decay(None if kind != "step" else 4, (5, 9), 2.0 if kind == "poly" else 0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched=kind, num_epochs=epochs, warmup_epochs=warmup, warmup_lr=1e-3, min_lr=1e-2,
        decay_epochs=decay.epochs, decay_milestones=decay.milestones, decay_rate=decay.rate,
        step_on_epochs=unit == "epoch", updates_per_epoch=per_epoch,
    )  # fmt: skip
    found = []
    for epoch in range(epochs):
        if unit == "epoch":
            scheduler.step(epoch)
        for update in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            if unit == "step":
                scheduler.step_update(update)
            found.append(optimizer.param_groups[0]["lr"])
    schedule = build_schedule(
        kind, lr=0.3, warmup_lr=1e-3, floor=1e-2, epochs=epochs, warmup_epochs=warmup, steps_per_epoch=per_epoch,
        unit=unit, decay=decay,
    )  # fmt: skip
    backwards = [schedule(step) for step in reversed(range(epochs * per_epoch))]
    assert backwards[::-1] == found
    assert found[0] == 1e-3
    assert max(found) <= 0.3
    if kind != "constant":
        assert any(later < before for before, later in itertools.pairwise(found))


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe\.schedule=wsd with epochs=2, recipe\.warmup_epochs=5"):
        build_schedule("wsd", lr=1, warmup_lr=0, floor=0, epochs=2, warmup_epochs=5, steps_per_epoch=4)
