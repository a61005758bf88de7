"""A run whose images are mixed by image, by pair or by patches, labels by attention: it resumes to the last bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from tests.commands.conftest import compose_digits
from vitaos.assembly.possible import check_possible
from vitaos.config import ConfigError

MASKS = "batch recipe.mask_mix=0.7 recipe.mask_mix_patch=8 recipe.mix_labels=progressive"


@pytest.mark.parametrize("mode", ["elem", MASKS, pytest.param("pair", marks=pytest.mark.long)])
def test_a_run_resumes_to_the_last_bit(mode: str, digits_root: Path, tmp_path: Path) -> None:
    words = ["depth=1", "batch_size=15", "recipe.warmup_epochs=0", "recipe.schedule_unit=step", "recipe.repeats=1"]
    words += [
        "recipe.mixup=0.8",
        "recipe.cutmix=1",
        *f"recipe.mix_mode={mode}".split(),
        "accumulate=2",
        f"out={tmp_path}",
    ]
    config = compose_digits(digits_root, *words)

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        assert train.main(replace(config, name=name, steps=steps)) == 0
        state = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        return state["model"]  # type: ignore[no-any-return]

    whole, _, parts = run("whole", 3), run("parts", 2), run("parts", 3)
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_patches_must_fill_the_images(digits_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.mask_mix_patch=56: .* do not fill images of 32"):
        compose_digits(digits_root, "recipe.mask_mix=0.5")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["recipe.mixup=1"], "nothing is mixed by regions of the image"),
        (["recipe.cutmix=1", "recipe.loss=bce", "recipe.bce_threshold=0"], "the threshold makes every weight 0 or 1"),
        (["recipe.cutmix=1", "recipe.mix_labels=progresive"], "area, attention, progressive"),
        (["recipe.cutmix=1", "model.keywords.global_pool=avg"], "does not answer by its class token"),
    ],
)
def test_labels_that_attention_cannot_weigh(words: list[str], reason: str, digits_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"recipe\.mix_labels.*{reason}"):
        check_possible(compose_digits(digits_root, f"out={tmp_path}", "recipe.mix_labels=progressive", *words))
