"""Mixup and CutMix by image and by pair against timm.data.Mixup: distribution, pixels and targets at the same draws."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from timm.data import mixup as timm_mixup

from vitaos.batch import Batch
from vitaos.data.augment.mix_by_image import ImageMixer, ImageMixes, build_mixer
from vitaos.data.augment.mixup import BatchMixer
from vitaos.data.augment.pipeline import DeviceAugment
from vitaos.data.augment.settings import DEIT_AUGMENT, MixSettings

MODES = ("pair", "elem")


def mixer(mode: str, **settings: float) -> ImageMixer:
    built = build_mixer(MixSettings(**settings, mode=mode), num_classes=7, seed=3)  # type: ignore[arg-type]
    assert isinstance(built, ImageMixer)
    return built


@pytest.mark.parametrize(
    ("mixup", "cutmix", "probability", "switch"),
    [(0.8, 1.0, 1.0, 0.5), (0.05, 0.0, 0.7, 0.5), (0.0, 1.0, 1.0, 0.5), (3.0, 0.5, 0.9, 0.2)],
)
def test_draws_are_distributed_as_timms(mixup: float, cutmix: float, probability: float, switch: float) -> None:
    count = 8000
    mine = mixer("elem", mixup=mixup, cutmix=cutmix, probability=probability, switch=switch)
    mixes = mine.draw_images(2, np.arange(count), 64, 64)
    # An idle image of CutMix has an empty box; a small alpha of mixup reaches 1 as well.
    pasted = (mixes.partner == 1) & (cutmix > 0)
    theirs = timm_mixup.Mixup(mixup, cutmix, prob=probability, switch_prob=switch, num_classes=7)
    np.random.seed(0)
    their_lam, their_paste = theirs._params_per_elem(count)
    their_cut = [timm_mixup.cutmix_bbox_and_lam((3, 64, 64), lam)[1] for lam in their_lam[their_paste]]
    if mixup and cutmix:
        assert stats.binomtest(int(pasted.sum()), count, switch).pvalue > 1e-3
    for ours, yours in ((mixes.lam[~pasted], their_lam[~their_paste]), (mixes.lam[pasted], np.array(their_cut))):
        assert bool(len(ours)) == bool(len(yours))
        if len(ours):
            assert stats.ks_2samp(ours, yours).pvalue > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_pixels_and_targets_equal_timms_at_the_same_draws(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = mixer(mode, probability=0.8)
    images, targets = torch.randn(12, 3, 20, 28), torch.randint(0, 7, (12,))
    positions = np.arange(100, 112)
    mixes = mine.draw_images(1, positions, 20, 28)
    count = 6 if mode == "pair" else 12
    paste = mixes.partner[:count] == 1
    lam = np.where(paste, np.minimum(mixes.lam[:count], 0.999), mixes.lam[:count])  # 1 would leave out timm's box
    boxes = iter(mixes.boxes[:count][paste].tolist())
    theirs = timm_mixup.Mixup(0.8, 1.0, mode=mode, label_smoothing=0.0, num_classes=7)
    monkeypatch.setattr(theirs, "_params_per_elem", lambda _: (lam.copy(), paste))
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *_, **__: next(boxes))
    expected_images, expected_targets = theirs(images.clone(), targets)
    mixed_images, mixed_targets = mine(images.clone(), targets, step=0, epoch=1, positions=positions)
    torch.testing.assert_close(mixed_images, expected_images)
    torch.testing.assert_close(mixed_targets, expected_targets)
    assert paste.any()
    assert not paste.all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 5])
def test_an_odd_batch_keeps_its_middle(mode: str, batch: int) -> None:
    images, targets = torch.randn(batch, 3, 9, 11), torch.arange(batch)
    mixed, weights = mixer(mode)(images.clone(), targets, step=0, epoch=0, positions=np.arange(batch))
    assert torch.equal(mixed[batch // 2], images[batch // 2])
    torch.testing.assert_close(weights.sum(1), torch.ones(batch))
    assert weights[batch // 2, batch // 2] == 1


def test_an_image_draws_by_its_position_and_a_pair_by_its_first() -> None:
    by_image, by_pair = mixer("elem"), mixer("pair")

    def rows(mixes: ImageMixes) -> list[Any]:
        return [tuple(np.asarray(part).tolist()) for part in zip(mixes.lam, mixes.partner, *mixes.boxes.T, strict=True)]

    def draw(mixer: ImageMixer, epoch: int, positions: NDArray[np.int64]) -> list[Any]:
        return rows(mixer.draw_images(epoch, positions, 32, 32))

    whole = draw(by_image, 4, np.arange(8))
    assert whole[2::4] == draw(by_image, 4, np.arange(8)[2::4])  # another process, another batch
    assert whole != draw(by_image, 5, np.arange(8))
    assert len(set(whole)) == 8
    pairs = draw(by_pair, 4, np.arange(8))
    assert pairs == pairs[::-1]
    assert pairs[:4] == whole[:4]


def test_the_mode_goes_through_the_whole_augmentation() -> None:
    assert type(build_mixer(MixSettings(), num_classes=7, seed=0)) is BatchMixer
    transform = DeviceAugment(DEIT_AUGMENT, MixSettings(mode="elem"), img_size=16, num_classes=7, seed=0)
    batch = Batch(torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.arange(6), torch.arange(6))
    _, one = transform(batch, epoch=0, step=0)
    _, other_step = transform(batch, epoch=0, step=9)
    _, other_epoch = transform(batch, epoch=1, step=0)
    assert torch.equal(one, other_step)
    assert not torch.equal(one, other_epoch)
    with pytest.raises(ValueError, match="mode='image' is unknown; choose one of batch, pair, elem"):
        build_mixer(MixSettings(mode="image"), num_classes=7, seed=0)
    with pytest.raises(ValueError, match="give epoch and positions"):
        mixer("elem")(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), step=0)
