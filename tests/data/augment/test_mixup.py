"""Mixup and CutMix against timm.data.Mixup: distribution, and pixels at the same lambda and box."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import mixup as timm_mixup

from vitaos.data.augment.mixup import BatchMixer, Mix, cutmix_bbox, mix_images, mix_targets
from vitaos.data.augment.settings import MixSettings

STEPS = 8000


def draw_timm(mixer: timm_mixup.Mixup, size: int) -> tuple[list[float], list[float], int]:
    """Lambdas of mixup, corrected lambdas of CutMix, number of steps left alone, over STEPS draws."""
    np.random.seed(0)
    mixed, cut, idle = [], [], 0
    for _ in range(STEPS):
        lam, use_cutmix = mixer._params_per_batch()
        if lam == 1.0:
            idle += 1
        elif use_cutmix:
            cut.append(timm_mixup.cutmix_bbox_and_lam((1, 3, size, size), lam)[1])
        else:
            mixed.append(lam)
    return mixed, cut, idle


@pytest.mark.parametrize(
    ("mixup", "cutmix", "probability", "switch"),
    [(0.8, 1.0, 1.0, 0.5), (0.2, 0.0, 0.7, 0.5), (0.0, 1.0, 1.0, 0.5), (0.8, 0.5, 0.9, 0.2)],
)
def test_draws_are_distributed_as_timms(mixup: float, cutmix: float, probability: float, switch: float) -> None:
    mixer = BatchMixer(
        MixSettings(mixup=mixup, cutmix=cutmix, probability=probability, switch=switch), num_classes=10, seed=5
    )
    draws = [mixer.draw(step, 64, 64) for step in range(STEPS)]
    mixed = [d.lam for d in draws if d.box is None and d.lam != 1]
    cut = [d.lam for d in draws if d.box is not None]
    theirs = timm_mixup.Mixup(mixup, cutmix, prob=probability, switch_prob=switch, num_classes=10)
    their_mixed, their_cut, their_idle = draw_timm(theirs, 64)
    counts = np.array(
        [[len(mixed), len(cut), STEPS - len(mixed) - len(cut)], [len(their_mixed), len(their_cut), their_idle]]
    )
    if (counts[:, counts.sum(0) > 0]).shape[1] > 1:
        assert stats.chi2_contingency(counts[:, counts.sum(0) > 0]).pvalue > 1e-3
    for mine, yours in ((mixed, their_mixed), (cut, their_cut)):
        assert bool(mine) == bool(yours)
        if mine:
            assert stats.ks_2samp(mine, yours).pvalue > 1e-3


@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize("use_cutmix", [False, True])
def test_pixels_and_targets_equal_timms_at_the_same_draw(
    batch: int, use_cutmix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(batch, 3, 20, 28)
    targets = torch.randint(0, 7, (batch,))
    mix = cutmix_bbox(0.4, 3, 20, 20, 28) if use_cutmix else Mix(0.37, None)
    theirs = timm_mixup.Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=7)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (0.4 if use_cutmix else 0.37, use_cutmix))
    box = (mix.box[0], mix.box[1], mix.box[2], mix.box[3]) if mix.box else None
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *_, **__: box)
    expected_images, expected_targets = theirs(images.clone(), targets)
    torch.testing.assert_close(mix_images(images.clone(), mix), expected_images)
    torch.testing.assert_close(mix_targets(targets, mix.lam, 7), expected_targets)


def test_boxes_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        lam, y, x = random.random(), int(random.integers(20)), int(random.integers(28))
        centers = iter((y, x))
        monkeypatch.setattr(np.random, "randint", lambda *_, centers=centers, **__: next(centers))
        (top, bottom, left, right), expected = timm_mixup.cutmix_bbox_and_lam((2, 3, 20, 28), lam)
        mix = cutmix_bbox(lam, y, x, 20, 28)
        assert mix.box == (top, bottom, left, right)
        assert mix.lam == pytest.approx(expected)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [8, 96])
def test_any_batch_size_pairs_with_its_mirror(batch: int, size: int) -> None:
    images = torch.randn(batch, 3, size, size)
    for mix in (Mix(0.3, None), cutmix_bbox(0.5, 4, 4, size, size)):
        out = mix_images(images.clone(), mix)
        if mix.box is None:
            expected = images * 0.3 + images.flip(0) * 0.7
        else:
            top, bottom, left, right = mix.box
            expected = images.clone()
            expected[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        torch.testing.assert_close(out, expected)


def test_targets_sum_to_one_and_same_class_pairs_stay_whole() -> None:
    weights = mix_targets(torch.tensor([3, 1, 3]), 0.25, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]))
    assert weights[1, 1].item() == pytest.approx(1.0)
    assert mix_targets(torch.tensor([2, 0]), 0.25, 3).tolist() == [[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]


def test_the_mix_follows_seed_and_step_alone() -> None:
    one, same, other = (BatchMixer(num_classes=4, seed=seed) for seed in (1, 1, 2))
    assert [one.draw(s, 32, 32) for s in (9, 2, 7)] == [same.draw(s, 32, 32) for s in (9, 2, 7)]
    assert [one.draw(s, 32, 32) for s in range(9)] != [other.draw(s, 32, 32) for s in range(9)]


def test_targets_stay_indices_only_where_mixing_is_off() -> None:
    images, targets = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    off = BatchMixer(MixSettings(mixup=0.0, cutmix=0.0), num_classes=3, seed=0)
    assert off(images, targets, step=0)[1] is targets
    rare = BatchMixer(MixSettings(probability=1e-12), num_classes=3, seed=0)
    _, dense = rare(images, targets, step=0)
    assert dense.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("wrong", [{"mixup": -1.0}, {"cutmix": -0.1}, {"probability": 1.5}, {"switch": -0.5}])
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        BatchMixer(MixSettings(**wrong), num_classes=3, seed=0)
