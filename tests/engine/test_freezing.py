"""Frozen parameters, rates by layer, and the recipes that use them."""

from pathlib import Path

import pytest
import torch
from miniature import tiny_vit

import vitaos
from vitaos.engine.freezing import freeze
from vitaos.engine.optim import build_optimizer, parameter_groups

_SMALL = ["data=digits", "data.loader=folder", "data.workers=0", "depth=1", "batch_size=64", "steps=2", "device=cpu"]


def test_patterns_and_the_backbone() -> None:
    model = tiny_vit()
    assert freeze(model, ["blocks.0.*", "cls_token"])[-1] == "cls_token"
    assert not model.blocks[0].attn.qkv.weight.requires_grad
    assert model.blocks[1].attn.qkv.weight.requires_grad
    freeze(model, ["backbone"])
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["head.weight", "head.bias"]
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.05)) == 2
    with pytest.raises(ValueError, match=r"recipe\.freeze=block0\*: no parameter of that name; names are cls_token"):
        freeze(tiny_vit(), ["block0*"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(tiny_vit(), ["*"])


@pytest.mark.parametrize("name", ["deit_ti12", "cait_xxs24", "swin_t"])
def test_the_rate_falls_towards_the_first_layer(name: str) -> None:
    depth = {} if name == "swin_t" else {"depth": 3}
    with torch.device("meta"):
        model = vitaos.create_model(name, attnscale=True, featscale=True, num_classes=10, **depth)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in parameter_groups(model, 0.05, 0.5) for p in group["params"]}
    assert set(scale) == set(names.values())
    head = next(key for key in scale if key.startswith("head") and key.endswith("weight"))
    blocks = "layers.0.blocks" if name == "swin_t" else "blocks"
    first, second = (scale[f"{blocks}.{number}.attn.attn_scale"] for number in (0, 1))
    assert scale["patch_embed.proj.weight"] < first == second / 2 < scale[head] == 1
    assert first == scale[f"{blocks}.0.attn.qkv.weight"] == scale[f"{blocks}.0.feat_scale_dc"]


def test_a_pace_and_a_layers_rate_multiply() -> None:
    model = tiny_vit()
    plain, paced = (
        {group["lr_scale"] for group in build_optimizer(
            model, lr=1.0, weight_decay=0.05, layer_decay=0.5, paces=paces).param_groups}
        for paces in ({}, {"blocks.0.attn.qkv.weight": 2.0})
    )  # fmt: skip
    assert paced >= plain == {1.0, 0.5, 0.25, 0.125}


def test_a_linear_probe_trains_the_classifier_alone_and_resumes(tmp_path: Path) -> None:
    words = [*_SMALL, f"data.root={tmp_path / 'data'}", f"out={tmp_path}", "recipe=linear_probe", "attnscale=true"]
    words += ["recipe.warmup_epochs=0", "epochs=2", "name=probe"]
    states = []
    for steps in ("steps=1", "steps=3"):
        run = vitaos.train([*words, steps])
        states.append(torch.load(run["checkpoint"], weights_only=True)["model"])
    changed = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert changed == {"head.weight", "head.bias"}
