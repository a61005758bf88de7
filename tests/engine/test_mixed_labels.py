"""Labels that attention weighs: against the formula pixel by pixel, for every way of mixing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.batch import MixedTargets
from vitaos.data.augment.mix_by_image import build_mixer
from vitaos.data.augment.settings import MixSettings
from vitaos.engine.distillation import DistillationLoss, TaughtTargets
from vitaos.engine.loss import BinaryCrossEntropy, CrossEntropy
from vitaos.engine.mixed_labels import AttendedLabels, overlap

CLASSES, GRID, SIZE = 7, (3, 4), (12, 24)


class Row:
    """A class row that is known."""

    def __init__(self, row_BN: Tensor) -> None:
        self.row_BN = row_BN

    def take(self) -> Tensor:
        return self.row_BN

    def grid(self, height: int, width: int) -> tuple[int, int]:
        assert (height, width) == SIZE
        return GRID


def mixed(settings: MixSettings, batch: int = 5, step: int = 3) -> tuple[Tensor, MixedTargets, Tensor]:
    """Images of which an own pixel is 1 and the partner's 0, seen from the image; their targets; a row."""
    classes, positions = torch.arange(batch) % CLASSES, np.arange(40, 40 + batch)
    mixer = build_mixer(replace(settings, tell_cells=True), num_classes=CLASSES, seed=4)
    own = []
    for image in range(batch):
        marked = torch.zeros(batch, 1, *SIZE)
        marked[image] = 1
        own.append(mixer(marked, classes, step=step, epoch=1, positions=positions)[0][image, 0])
    _, targets = mixer(torch.zeros(batch, 1, *SIZE), classes, step=step, epoch=1, positions=positions)
    assert isinstance(targets, MixedTargets)
    plain = build_mixer(settings, num_classes=CLASSES, seed=4)
    _, labels = plain(torch.zeros(batch, 1, *SIZE), classes, step=step, epoch=1, positions=positions)
    assert torch.equal(labels, targets.labels)
    return torch.stack(own), targets, torch.rand(batch, 12, generator=torch.Generator().manual_seed(2))


MASK = MixSettings(mixup=0.0, cutmix=0.0, mask=1.0, mask_patch=4)
WAYS = {
    "MaskMix": MASK,
    "Patch Mixing": replace(MASK, mask_ratio=0.4, mask_patch=6),
    "CutMix": MixSettings(mixup=0.0, cutmix=1.0),
    "CutMix by image": MixSettings(mixup=0.0, cutmix=1.0, mode="elem"),
    "mixup": MixSettings(mixup=0.8, cutmix=0.0),
    "mixup by pair": MixSettings(mixup=0.8, cutmix=0.0, mode="pair"),
    "not mixed": MixSettings(mixup=0.8, cutmix=1.0, probability=1e-9),
    "no mask": replace(MASK, mask=1e-9),
}


@pytest.mark.parametrize("kind", ["attention", "progressive"])
@pytest.mark.parametrize("way", WAYS)
def test_the_loss_is_that_of_the_formula(way: str, kind: str) -> None:
    batch, smoothing = 4, 0.1  # even: an odd batch's middle image is its own partner
    own_BHW, targets, row_BN = mixed(WAYS[way], batch)
    logits = torch.randn(batch, CLASSES, generator=torch.Generator().manual_seed(3), requires_grad=True)
    height, width = SIZE[0] // GRID[0], SIZE[1] // GRID[1]
    expected, weights = [], []
    for image in range(batch):
        shares = [
            own_BHW[image, height * (n // 4) : height * (n // 4 + 1), width * (n % 4) : width * (n % 4 + 1)].mean()
            for n in range(12)
        ]
        by_attention = sum(a * o for a, o in zip(row_BN[image], shares, strict=True)) / row_BN[image].sum()
        by_area = own_BHW[image].mean()
        one, other = F.one_hot(targets.own[image], CLASSES), F.one_hot(targets.partner[image], CLASSES)
        label = (by_area * one + (1 - by_area) * other) * (1 - smoothing) + smoothing / CLASSES
        p = logits[image].detach().softmax(0)
        alpha = 0.5 if kind == "attention" else label @ p / (label.norm() * p.norm())
        weight = alpha * by_attention + (1 - alpha) * by_area
        first, second = (
            F.cross_entropy(logits[image], target[image], label_smoothing=smoothing)
            for target in (targets.own, targets.partner)
        )
        expected.append(weight * first + (1 - weight) * second)
        weights.append(weight - by_area)
    loss = AttendedLabels(CrossEntropy(smoothing), Row(row_BN), kind=kind, smoothing=smoothing)
    torch.testing.assert_close(loss(logits, targets), torch.stack(expected).mean())
    moved = max(abs(float(weight)) for weight in weights)
    assert (moved < 1e-6) == (way not in list(WAYS)[:4]), "where nothing has a place, the area alone counts"
    (of_loss,) = torch.autograd.grad(loss(logits, targets), logits)
    (of_formula,) = torch.autograd.grad(torch.stack(expected).mean(), logits)
    torch.testing.assert_close(of_loss, of_formula)


def test_an_odd_batch_a_row_below_zero_and_other_losses() -> None:
    own_BHW, targets, row_BN = mixed(MASK, batch=5)
    logits = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(3))
    assert own_BHW[2].mean() == 1
    weigher = AttendedLabels(CrossEntropy(), Row(row_BN), kind="progressive")
    labels = weigher.weigh(logits, targets)
    torch.testing.assert_close(labels.sum(1), torch.ones(5))
    torch.testing.assert_close(labels[2], F.one_hot(targets.own[2], CLASSES).float())
    negative = AttendedLabels(CrossEntropy(), Row(-row_BN), kind="attention").weigh(logits, targets)
    torch.testing.assert_close(negative, targets.labels)
    half = torch.where(torch.arange(12) < 6, row_BN, -row_BN)
    some = AttendedLabels(CrossEntropy(), Row(half), kind="attention").weigh(logits, targets)
    assert some.min() >= 0
    binary = AttendedLabels(BinaryCrossEntropy(0.1), Row(row_BN), kind="progressive")
    assert torch.equal(binary(logits, targets), BinaryCrossEntropy(0.1)(logits, labels))
    teacher = torch.randn(5, CLASSES)
    taught: Any = DistillationLoss(weigher, kind="soft", alpha=0.3)
    plain = DistillationLoss(CrossEntropy(), kind="soft", alpha=0.3)
    assert torch.equal(
        taught((logits, logits), TaughtTargets(targets, teacher)),
        plain((logits, logits), TaughtTargets(labels, teacher)),
    )
    with pytest.raises(ValueError, match="choose one of attention, progressive"):
        AttendedLabels(CrossEntropy(), Row(row_BN), kind="area")


@pytest.mark.parametrize("cells", [1, 3, 4, 7, 12, 24])
def test_shares_are_means_over_pixels(cells: int) -> None:
    """Of any number of cells in any number of patches, here by repeating both up to a common one."""
    given = torch.rand(cells, generator=torch.Generator().manual_seed(1))
    patches = given.repeat_interleave(5).unflatten(0, (5, -1)).mean(1)
    torch.testing.assert_close(overlap(cells, 5) @ given, patches)
