"""AutoAugment, AugMix and its loss: what a view is, that a run resumes with them, and what is refused; DeiT III."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import train
from tests.commands.conftest import compose_digits
from vitaos import cli, config_check
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import ConfigError, TrainConfig
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.crops import CropSettings
from vitaos.data.folder.timm_transform import preserve_rng_state, seed_rngs, timm_transform, timm_views

PLAIN = AugmentSettings(randaugment=None, erasing=0.0, color_jitter=0.0)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
JSD = ["recipe.loss=jsd", "augment=timm", "recipe.auto_augment=augmix-m3", "recipe.randaugment=null"]
JSD += ["recipe.mixup=0", "recipe.cutmix=0", "recipe.erasing=0", "recipe.color_jitter=0"]


def views(settings: AugmentSettings, seed: int) -> list[torch.Tensor]:
    with preserve_rng_state():
        seed_rngs(seed)
        return timm_views(settings, 32, CropSettings())(IMAGE)


@pytest.mark.parametrize("policy", ["v0", "v0r", "original-mstd0.5", "originalr-mstd9", "3a", "augmix-m10-w2-d3-b1"])
def test_a_policy_of_timm_follows_from_the_seed_alone(policy: str) -> None:
    settings = replace(PLAIN, auto_augment=policy)
    for seed in range(12):  # posterize to 0 bits, which Pillow refuses, is among their draws
        (first,), (again,) = views(settings, seed), views(settings, seed)
        assert torch.equal(first, again)
    assert any(not torch.equal(views(settings, seed)[0], views(PLAIN, seed)[0]) for seed in range(12))


def test_the_first_view_is_clean_and_all_share_their_crop() -> None:
    clean, *others = views(replace(PLAIN, auto_augment="augmix-m3", views=3), 4)
    assert torch.equal(clean, views(PLAIN, 4)[0])
    assert len(others) == 2
    assert not torch.equal(*others)
    assert all((other - clean).abs().mean() < clean.std() for other in others)


@pytest.mark.parametrize("wrong", ["rand-m9", "augmix-x3", "augmix-w0", "original-m3", "v1", ""])
def test_what_timm_would_pass_over_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"auto_augment=.* is unknown: it is v0"):
        timm_transform(replace(PLAIN, auto_augment=wrong), 32, CropSettings())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"auto_augment": "v0"}, "needs augment=timm"),
        ({"loss": "jsd"}, "needs augment=timm"),
        ({"decay_milestones": [5, 3]}, "epochs in rising order"),
    ],
)
def test_half_of_it_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_check.check(OmegaConf.create({"recipe": recipe}), TrainConfig)


def test_a_run_on_views_resumes_to_the_last_bit(digits_root: Path, tmp_path: Path) -> None:
    words = ["depth=1", "batch_size=16", "recipe.schedule=wsd", "recipe.schedule_unit=step", "recipe.warmup_epochs=0"]
    config = compose_digits(digits_root, *words, "recipe.repeats=1", f"out={tmp_path}", *JSD)

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        assert train.main(replace(config, name=name, steps=steps)) == 0
        state = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        return state["model"]  # type: ignore[no-any-return]

    whole, _, parts = run("whole", 3), run("parts", 2), run("parts", 3)
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.parametrize(("name", "lr", "drop_path", "size"), [("s", 4e-3, 0.05, 224), ("b", 3e-3, 0.2, 192)])
def test_deit_three_is_its_readmes_command(name: str, lr: float, drop_path: float, size: int) -> None:
    config = cli.compose([f"experiment=deit3_{name}"], config_name="train", schema=TRAIN_SCHEMA)
    recipe, optimizer = config.recipe, config.optimizer
    assert (recipe.lr, recipe.lr_reference_batch, recipe.weight_decay) == (lr, None, 0.05)
    assert (recipe.drop_path, recipe.drop_path_spread, config.data.img_size) == (drop_path, "uniform", size)
    assert (recipe.loss, recipe.bce_threshold, recipe.smoothing) == ("bce", 0.0, 0.0)
    assert (recipe.three_augment, recipe.randaugment, recipe.color_jitter, recipe.erasing) == (True, None, 0.3, 0.0)
    assert (recipe.mixup, recipe.cutmix, recipe.repeats, recipe.warmup_epochs) == (0.8, 1.0, 3, 5)
    assert (config.epochs, config.batch_size, optimizer.name, optimizer.eps) == (800, 256, "lamb", 1e-8)
