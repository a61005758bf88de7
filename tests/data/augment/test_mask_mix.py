"""MaskMix and Patch Mixing against their definition, patch by patch; draws without history."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from vitaos.batch import Batch
from vitaos.data.augment.mask_mix import MaskMixer
from vitaos.data.augment.mix_by_image import ImageMixer, build_mixer
from vitaos.data.augment.mixup import BatchMixer
from vitaos.data.augment.pipeline import DeviceAugment, MixOnly
from vitaos.data.augment.settings import DEIT_AUGMENT, MixSettings

ONLY = MixSettings(mixup=0.0, cutmix=0.0, mask=1.0, mask_patch=4)


def mixer(settings: MixSettings = ONLY, seed: int = 3) -> MaskMixer:
    built = build_mixer(settings, num_classes=9, seed=seed)
    assert isinstance(built, MaskMixer)
    return built


@pytest.mark.parametrize("ratio", [0.0, 0.3])
@pytest.mark.parametrize("batch", [5, 8])
def test_patches_and_labels_are_those_of_the_definition(batch: int, ratio: float) -> None:
    mine = mixer(replace(ONLY, mask_ratio=ratio))
    images, targets, positions = torch.randn(batch, 3, 12, 20), torch.arange(batch), np.arange(50, 50 + batch)
    mixed, weights = mine(images.clone(), targets, step=4, epoch=2, positions=positions)
    share = mine.draw_share(4)
    assert share is not None
    assert share == ratio or not ratio
    kept = math.ceil(15 * share)
    masks = mine.draw_masks(share, 2, positions, 15)
    assert masks.sum(1).tolist() == [kept] * batch
    assert len({tuple(mask) for mask in masks.tolist()}) == batch
    for i in range(batch):
        for cell in range(15):
            rows, columns = slice(4 * (cell // 5), 4 * (cell // 5) + 4), slice(4 * (cell % 5), 4 * (cell % 5) + 4)
            source = i if masks[i, cell] else batch - 1 - i
            assert torch.equal(mixed[i, :, rows, columns], images[source, :, rows, columns])
        expected = torch.zeros(9)
        expected[i] += kept / 15
        expected[batch - 1 - i] += 1 - kept / 15
        torch.testing.assert_close(weights[i], expected)


def test_draws_have_no_history_and_their_distribution() -> None:
    mine = mixer(replace(ONLY, mask=0.5))
    shares = [mine.draw_share(step) for step in range(4000)]
    drawn = [share for share in shares if share is not None]
    assert stats.binomtest(len(drawn), 4000, 0.5).pvalue > 1e-3
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3  # Beta(1, 1)
    assert mixer(replace(ONLY, mask=0.5)).draw_share(7) == shares[7]
    whole = mine.draw_masks(0.5, 1, np.arange(3000), 16)
    assert np.array_equal(whole[2::4], mine.draw_masks(0.5, 1, np.arange(3000)[2::4], 16))
    assert not np.array_equal(whole, mine.draw_masks(0.5, 2, np.arange(3000), 16))
    assert stats.chisquare(whole.sum(0)).pvalue > 1e-3  # every patch is as likely


def test_other_steps_are_left_to_the_other_mixer() -> None:
    images, targets = torch.randn(6, 3, 8, 8), torch.arange(6)
    for mode in ("batch", "elem"):
        both = MixSettings(mode=mode, mask=0.5, mask_patch=4)
        mine, other = mixer(both), build_mixer(replace(both, mask=0.0), num_classes=9, seed=3)
        assert type(other) is (BatchMixer if mode == "batch" else ImageMixer)
        step = next(step for step in range(50) if mine.draw_share(step) is None)
        one, weights = mine(images.clone(), targets, step=step, epoch=0, positions=np.arange(6))
        two, expected = other(images.clone(), targets, step=step, epoch=0, positions=np.arange(6))
        assert torch.equal(one, two)
        assert torch.equal(weights, expected)
    rare = mixer(replace(ONLY, mask=1e-9))
    one, weights = rare(images.clone(), targets, step=0, epoch=0, positions=np.arange(6))
    assert torch.equal(one, images)
    assert torch.equal(weights, torch.eye(9)[:6])  # targets keep one form in a run
    assert type(build_mixer(MixSettings(), num_classes=9, seed=3)) is BatchMixer


def test_it_goes_through_both_augmentations_and_odd_sizes_are_refused() -> None:
    batch = Batch(torch.randint(0, 255, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6), torch.arange(6))
    on_device = DeviceAugment(DEIT_AUGMENT, ONLY, img_size=16, num_classes=9, seed=0)
    floating = Batch(batch.images.float(), batch.targets, batch.positions)
    for transform, given in ((on_device, batch), (MixOnly(ONLY, num_classes=9, seed=0), floating)):
        images, weights = transform(given, epoch=1, step=5)
        again, same = transform(given, epoch=1, step=5)
        assert torch.equal(images, again)
        assert torch.equal(weights, same)
        torch.testing.assert_close(weights.sum(1), torch.ones(6))
        assert weights[0, 0] < 1
    with pytest.raises(ValueError, match="mask_patch=4 pixels must divide the images' sides, 10 x 12"):
        mixer()(torch.zeros(2, 3, 10, 12), torch.zeros(2, dtype=torch.int64), step=0, epoch=0, positions=np.arange(2))
    for wrong, name in ((replace(ONLY, mask=1.5), "mask=1.5"), (replace(ONLY, mask_patch=0), "mask_patch=0")):
        with pytest.raises(ValueError, match=name):
            mixer(wrong)
