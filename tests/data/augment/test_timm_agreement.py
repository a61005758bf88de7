"""One recipe, two engines: the device pipeline and timm's CPU transforms give the same distribution of images."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from flat_settings import device_augment
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from timm_pipeline import timm_stages

from vitaos.batch import Batch

VIEWS = 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"randaugment": None}, {"auto_augment": None}),
    ],
    ids=["randaugment", "color_jitter"],
)
def test_device_and_timm_engines_agree_in_distribution(
    crops: NDArray[np.uint8], ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    random.seed(0)
    torch.manual_seed(0)
    np.random.seed(0)
    crop_and_flip, color, finish = timm_stages(crops.shape[1], **theirs)
    flip = crop_and_flip.transforms[1]
    timm_views = torch.stack([finish(color(flip(Image.fromarray(crop)))) for _ in range(VIEWS) for crop in crops])
    transform = device_augment(img_size=crops.shape[1], num_classes=2, seed=0, mixup=0.0, cutmix=0.0, **ours)
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    device_views = torch.cat(
        [
            transform(
                Batch(images, torch.zeros(len(crops), dtype=torch.int64), torch.arange(len(crops))), epoch=epoch, step=0
            )[0]
            for epoch in range(VIEWS)
        ]
    )
    for channel in range(3):
        mine, yours = device_views[:, channel].flatten(1), timm_views[:, channel].flatten(1)
        assert mine.mean().item() == pytest.approx(yours.mean().item(), abs=0.06)
        assert mine.std().item() == pytest.approx(yours.std().item(), rel=0.04)
        for statistic in (lambda x: x.mean(1), lambda x: x.std(1), lambda x: (x[:, 1:] - x[:, :-1]).abs().mean(1)):
            assert stats.ks_2samp(statistic(mine).numpy(), statistic(yours).numpy()).pvalue > 1e-3
        # Shares of all pixels below each gray level.
        edges = np.linspace(-4, 4, 65)
        shares = [np.histogram(x.numpy().ravel(), edges)[0].cumsum() / x.numel() for x in (mine, yours)]
        assert np.abs(shares[0] - shares[1]).max() < 0.025
