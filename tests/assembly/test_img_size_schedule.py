"""Resolution by epoch: what changes with it, what does not, that a run resumes across sizes, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import train
from tests.commands.conftest import compose_digits
from vitaos import config_check
from vitaos.assembly import builders
from vitaos.assembly.possible import check_possible
from vitaos.batch import Batch
from vitaos.config import ConfigError, TrainConfig
from vitaos.data.sizes import size_at
from vitaos.runtime.world import World

SIZES = [[0, 16], [1, 24], [2, 32]]
CPU = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def config(digits_root: Path) -> TrainConfig:
    config = compose_digits(digits_root, "depth=1", "batch_size=512", "epochs=3", "steps=null", "recipe.repeats=1",
                            "evaluate_every=9", "recipe.ema_decay=null")  # fmt: skip
    return replace(config, recipe=replace(config.recipe, img_size_schedule=SIZES))


def test_the_size_of_an_epoch() -> None:
    assert [size_at(SIZES, epoch) for epoch in range(5)] == [16, 24, 32, 32, 32]


def test_order_and_crops_are_those_of_one_size(config: TrainConfig) -> None:
    sized = builders.build_loaders(config, CPU).train
    whole = builders.build_loaders(replace(config, recipe=replace(config.recipe, img_size_schedule=[])), CPU).train
    transform, plain = builders.build_train_transform(config, 10), builders.build_train_transform(
        replace(config, recipe=replace(config.recipe, img_size_schedule=[])), 10)  # fmt: skip
    for epoch, size in ((0, 16), (2, 32), (1, 24)):  # in any order, as a resumed run asks
        batch, other = next(sized.epoch(epoch)), next(
            whole.epoch(epoch))  # fmt: skip
        assert batch.images.shape[-2:] == (size, size)
        assert torch.equal(batch.positions, other.positions)
        assert torch.equal(batch.targets, other.targets)
        small = torch.nn.functional.interpolate(other.images.float(), (size, size), mode="bicubic", antialias=True)
        assert (small - batch.images.float()).abs().mean() < 8  # the same part of the image, resized once or twice
        first = Batch(*(part[:4] for part in batch))
        assert transform(first, epoch=epoch, step=0)[0].shape == (4, 3, size, size)
        if size == 32:
            assert torch.equal(batch.images, other.images)
            assert torch.equal(transform(first, epoch=2, step=0)[0], plain(first, epoch=2, step=0)[0])
    sized.close()


def test_positions_are_interpolated_and_the_parameters_are_those_of_the_final_size(config: TrainConfig) -> None:
    sized = builders.build_model(config, 10, recipe=config.recipe).eval()
    plain = builders.build_model(config, 10).eval()
    assert {key: value.shape for key, value in sized.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(sized(images), plain(images))
    sized(torch.randn(2, 3, 16, 16)).sum().backward()
    assert sized.pos_embed.grad.abs().sum() > 0  # type: ignore[union-attr]  # of all positions of the final size


@pytest.mark.long
def test_a_run_resumes_across_sizes_to_the_last_bit(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, out=str(tmp_path))

    def run(name: str, steps: int | None) -> dict[str, Any]:
        assert train.main(replace(config, name=name, steps=steps)) == 0
        state: dict[str, Any] = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        return state

    whole, cut, parts = run("whole", None), run("parts", 3), run("parts", None)
    assert cut["progress"]["step"] == 3 < whole["progress"]["step"] == 6
    assert all(torch.equal(value, parts["model"][key]) for key, value in whole["model"].items())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([[0, 16]], "must end at data.img_size=224"),
        ([[1, 224]], "epochs rising from 0"),
        ([[0, 128], [0, 224]], "epochs rising from 0"),
        ([[0, 0], [1, 224]], "pairs of first epoch and pixels"),
        ([[0, 128, 3], [1, 224]], "pairs of first epoch and pixels"),
        ([[0.5, 128]], "img_size_schedule"),
        ([4], "img_size_schedule"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_check.check(OmegaConf.create({"recipe": {"img_size_schedule": sizes}}), TrainConfig)


def test_a_model_of_one_size_is_refused(config: TrainConfig) -> None:
    cait = replace(config, model=replace(config.model, name="cait_xxs24", keywords={"patch_size": 8}))
    with pytest.raises(
        ValueError, match=r"img_size_schedule with 16 pixels: cait_xxs24 does not take them .* take images of 32 alone"
    ):
        check_possible(cait)
    check_possible(config)
