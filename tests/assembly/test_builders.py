"""What a recipe says arrives in the objects of a run, every number once and in its place."""

from pathlib import Path

import pytest
import torch

from tests.commands.conftest import compose_digits
from vitaos import cli
from vitaos.assembly import builders
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import TrainConfig
from vitaos.data.augment.pipeline import DeviceAugment, MixOnly
from vitaos.engine.settings import Settings


def compose(*overrides: str) -> TrainConfig:
    return cli.compose(["device=cpu", *overrides], config_name="train", schema=TRAIN_SCHEMA)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("recipe", "lr", "warmup_lr", "floor"),
    [
        ("deit_12", 5e-4 * 2, 1e-6, 1e-5),  # 2 ranks x 512 images, of a rate meant for 512
        ("cait_finetune", 5e-5 * 2 * 128 / 512, 1e-6, 1e-6),
        ("swin", 5e-4 * 2 * 128 / 512, 5e-7 * 2 * 128 / 512, 5e-6 * 2 * 128 / 512),  # scales the warm-up and floor too
    ],
)
def test_the_linear_rule(recipe: str, lr: float, warmup_lr: float, floor: float) -> None:
    schedule = builders.build_schedule(compose("model=deit_s12", f"recipe={recipe}"), 1000, world_size=2)
    assert (schedule.lr, schedule.warmup_lr, schedule.floor) == pytest.approx((lr, warmup_lr, floor), rel=1e-12)
    assert schedule.unit_steps == (1 if recipe == "swin" else 1000)


def test_accumulation_counts_in_the_linear_rule() -> None:
    whole = builders.build_schedule(compose("model=deit_s12"), 10, world_size=2)
    parts = builders.build_schedule(compose("model=deit_s12", "batch_size=128", "accumulate=4"), 10, world_size=2)
    assert whole == parts
    unscaled = builders.build_schedule(compose("model=deit_s12", "recipe.lr_reference_batch=null"), 10, world_size=2)
    assert unscaled.lr == 5e-4


def test_dropout_and_drop_path_belong_to_training_alone() -> None:
    config = compose("model=deit_ti12", "depth=2", "recipe=deit_24", "data.img_size=32", "+model.keywords.patch_size=8")
    training = builders.build_model(config, 10, recipe=config.recipe)
    evaluated = builders.build_model(config, 10)

    def dropped(model: torch.nn.Module) -> float:
        found = [getattr(module, "drop_prob", None) or getattr(module, "p", 0.0) for module in model.modules()]
        return max(float(value) for value in found)

    assert dropped(training) > 0
    assert dropped(evaluated) == 0
    weights = zip(training.state_dict().values(), evaluated.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights), "weights follow from the seed alone"


def test_each_engine_of_augmentation_has_the_same_recipe() -> None:
    device = compose("model=deit_s12")
    timm = compose("model=deit_s12", "augment=timm", "data=imagefolder", "data.root=/data")
    assert builders.build_augment_settings(device) == builders.build_augment_settings(timm)
    assert isinstance(builders.build_train_transform(device, 1000), DeviceAugment)
    assert isinstance(builders.build_train_transform(timm, 1000), MixOnly)


def test_settings_are_the_configurations(digits_root: Path) -> None:
    config = compose_digits(digits_root, "recipe.clip=1.5", "accumulate=2", "nonfinite=skip", "checkpoint_every=7")
    settings = builders.build_settings(config)
    assert (settings.clip, settings.accumulate, settings.nonfinite, settings.checkpoint_every) == (1.5, 2, "skip", 7)
    assert isinstance(settings, Settings)


def test_the_average_is_the_recipes() -> None:
    model = torch.nn.Linear(2, 2)
    swin, deit = compose("model=swin_s"), compose("model=deit_s12")
    assert builders.build_ema(swin, model) is None
    average = builders.build_ema(deit, model)
    assert average is not None
    assert average.decay == 0.99996
