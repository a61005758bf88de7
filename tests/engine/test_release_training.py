"""Twenty steps of the authors' release in float64, taken again by this trainer; and FeatScale at the release's pace."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

import vitaos
from vitaos import cli, techniques
from vitaos.assembly import builders
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.assembly.training import build_trainer
from vitaos.batch import Batch
from vitaos.config import TrainConfig
from vitaos.data.augment.mixup import Mix, mix_images, mix_targets
from vitaos.engine.loss import CrossEntropy
from vitaos.engine.optim import build_optimizer
from vitaos.engine.trainer import Trainer
from vitaos.runtime.world import World

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "training_deit_attnscale.npz"
ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
Arrays = dict[str, np.ndarray]


class Recorded(nn.Module):
    """A loss that remembers its values."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.values = loss, list[float]()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.loss(logits, targets)
        self.values.append(float(loss.detach()))
        return loss


class Replay:
    """The release's images in its order, and its mixup and CutMix as they were drawn."""

    def __init__(self, golden: Arrays, hyper: dict[str, Any]) -> None:
        self.golden, self.hyper = golden, hyper
        self.steps_per_epoch: int = hyper["steps_per_epoch"]
        self.images_per_epoch: int = hyper["steps_per_epoch"] * hyper["batch_size"]

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for step in range(start_step, self.steps_per_epoch):
            index = epoch * self.steps_per_epoch + step
            images, labels = (torch.from_numpy(self.golden[key][index]) for key in ("images", "labels"))
            yield Batch(images, labels, torch.arange(len(labels)))

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(self.hyper[key], dtype=torch.float64).view(3, 1, 1) for key in ("mean", "std"))
        top, bottom, left, right = (int(edge) for edge in self.golden["box"][step])
        mix = Mix(float(self.golden["lam"][step]), None if top < 0 else (top, bottom, left, right))
        images = mix_images((batch.images.double() / 255 - mean) / std, mix)
        return images, mix_targets(batch.targets, mix.lam, self.hyper["classes"])


def replay(golden: Arrays, hyper: dict[str, Any]) -> tuple[Trainer, list[float]]:
    """Train as the release did, from its weights, by the recipe's file and the sizes of `hyper`."""
    words = [
        "model=deit_s12", "recipe=deit_12", "data=digits", "attnscale=true", "precision=fp32", "device=cpu",
        f"depth={hyper['depth']}", f"data.img_size={hyper['img']}", f"model.keywords.embed_dim={hyper['dim']}",
        f"model.keywords.num_heads={hyper['heads']}", f"model.keywords.patch_size={hyper['patch']}",
        f"epochs={hyper['epochs']}", f"batch_size={hyper['batch_size']}",
        f"recipe.lr={hyper['lr'] * hyper['processes']}", f"recipe.warmup_epochs={hyper['warmup_epochs']}",
        f"recipe.ema_decay={hyper['ema_decay']}", f"recipe.drop_path={hyper['drop_path']}",
    ]  # fmt: skip
    config: TrainConfig = cli.compose(words, config_name="train", schema=TRAIN_SCHEMA)
    model = builders.build_model(config, hyper["classes"], recipe=config.recipe).double()
    weights = {key[4:]: torch.from_numpy(array) for key, array in golden.items() if key.startswith("w0::")}
    assert not vitaos.load_weights(model, weights).missing
    data = Replay(golden, hyper)
    trainer = build_trainer(
        config, model, data, ALONE, num_classes=hyper["classes"], evaluate=lambda judged: [{"top1": 0.0}] * len(judged)
    )  # fmt: skip
    trainer.transform = data
    recorded = Recorded(trainer.loss)
    trainer.loss = recorded
    trainer.fit()
    return trainer, recorded.values


def test_twenty_steps_are_those_of_the_release() -> None:
    golden = dict(np.load(GOLDEN, allow_pickle=False))
    hyper = json.loads(str(golden["hyper"]))
    trainer, losses = replay(golden, hyper)
    assert len(losses) == hyper["steps"]
    np.testing.assert_allclose(losses, golden["loss"], rtol=0, atol=1e-6)
    rates = [trainer.schedule(step) for step in range(hyper["steps"])]
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-12)
    assert trainer.ema is not None
    for prefix, module in (("w1::", trainer.model), ("ema::", trainer.ema.module)):
        state = module.state_dict()
        names = {key: key[len(prefix) :].replace("lamb", "attn_scale") for key in golden if key.startswith(prefix)}
        assert set(names.values()) == set(state)
        for key, name in names.items():
            sample = state[name].flatten()[:: max(1, state[name].numel() // 24)].numpy()
            np.testing.assert_allclose(sample, golden[key], rtol=0, atol=1e-6, err_msg=key)


class Twice(nn.Module):
    """The release's DeiT: what acts is twice the parameter."""

    def forward(self, value: Tensor) -> Tensor:
        return 2 * value

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / 2


def small(**flags: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 4}
    model = vitaos.create_model("deit_s12", num_classes=4, **sizes, **flags).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "feat_scale" in name:
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()))
    return model


def train_a_little(model: nn.Module, **keywords: Any) -> None:
    optimizer = build_optimizer(model, lr=1e-2, weight_decay=0.05, **keywords)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * group.get("lr_scale", 1.0)  # as the update does
        optimizer.zero_grad()
        CrossEntropy()(model(images), torch.arange(4)).backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", [{"name": "adamw"}, {"name": "nadamw", "eps": 1e-3}])
def test_the_pace_of_the_release_is_that_of_gains_added_twice(optimizer: dict[str, Any]) -> None:
    paced, doubled, plain = small(featscale={"release_pace": True}), small(featscale=True), small(featscale=True)
    for block in doubled.blocks:
        for name in ("feat_scale_dc", "feat_scale_hf"):
            register_parametrization(block, name, Twice())
    assert techniques.paces(plain) == {}
    train_a_little(paced, paces=techniques.paces(paced), **optimizer)
    train_a_little(doubled, **optimizer)
    train_a_little(plain, **optimizer)
    for block, twice, once in zip(paced.blocks, doubled.blocks, plain.blocks, strict=True):
        torch.testing.assert_close(block.feat_scale_dc, twice.feat_scale_dc, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(block.feat_scale_hf, twice.feat_scale_hf, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(block.attn.qkv.weight, twice.attn.qkv.weight, rtol=1e-6, atol=1e-8)
        assert not torch.allclose(block.feat_scale_dc, once.feat_scale_dc, atol=1e-3)


def test_the_pace_is_a_vits() -> None:
    with pytest.raises(ValueError, match="release's Swin adds FeatScale once"):
        vitaos.create_model("swin_t", depth=7, featscale={"release_pace": True})


def test_a_configuration_brings_the_pace_to_the_optimizer() -> None:
    words = ["model=deit_ti12", "depth=1", "data=digits", "featscale={release_pace: true}"]
    config = cli.compose(words, config_name="train", schema=TRAIN_SCHEMA)
    model = builders.build_model(config, 10)
    groups = builders.build_optimizer(config, model, builders.build_schedule(config, 10, 1)).param_groups
    assert {group.get("lr_scale", 1.0): group["eps"] for group in groups} == {1.0: 1e-8, 2.0: 5e-9}
    (fast,) = (group["params"] for group in groups if group.get("lr_scale") == 2)
    assert {id(parameter) for parameter in fast} == {
        id(parameter) for name, parameter in model.named_parameters() if "feat_scale" in name
    }
