"""Frozen parameters, rates by layer, and the recipes that use them."""

from pathlib import Path

import pytest
import torch
from miniature import tiny_vit

import vitaos
from vitaos.engine.freezing import freeze, frozen_modules
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
    with pytest.raises(
        ValueError, match=r"freeze=block0\*: no parameter of that name; did you mean blocks\.\*\? Names are cls_token"
    ):
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
    words += ["recipe.lr_scale={head.*: 2, head.bias: 0.5}"]
    words += ["recipe.warmup_epochs=0", "epochs=2", "name=probe"]
    states = []
    for steps in ("steps=1", "steps=3"):
        run = vitaos.train([*words, steps])
        states.append(torch.load(run["checkpoint"], weights_only=True)["model"])
    changed = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert changed == {"head.weight", "head.bias"}


def test_the_rate_by_pattern_multiplies_that_of_the_layer() -> None:
    model = tiny_vit()
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    optimizer = build_optimizer(
        model, lr=1.0, weight_decay=0.05, layer_decay=0.5, lr_scale={"head.*": 10, "blocks.*": 2, "blocks.0.*": 0}
    )
    scale = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert set(scale) == set(names.values())
    assert (scale["head.weight"], scale["head.bias"], scale["blocks.0.attn.qkv.weight"]) == (10, 10, 0)
    assert scale["blocks.1.attn.qkv.weight"] == 1.0  # 2 x 0.5 a layer
    assert scale["norm.weight"] == 0.5
    for wrong, message in (
        ({"haed.*": 1}, r"no parameter is named haed\.\*; did you mean head\.\*"),
        ({"head.*": -1}, "between 0 and"),
    ):
        with pytest.raises(ValueError, match=message):
            build_optimizer(model, lr=1.0, weight_decay=0.05, lr_scale=wrong)


def test_what_is_frozen_computes_as_in_evaluation() -> None:
    model = vitaos.create_model(
        "deit_ti12", depth=2, img_size=32, num_classes=3, drop_path_rate=0.5, pos_drop_rate=0.5, drop_rate=0.1,
        proj_drop_rate=0.5, re_attention=True,
    )  # fmt: skip
    for patterns, evaluated in (
        (["backbone"], {"blocks", "pos_drop", "patch_drop", "norm", "patch_embed", "norm_pre", "fc_norm"}),
        (["blocks.1.*"], {"blocks.1"}),
        ([], set()),
    ):
        model.requires_grad_(True).train()
        freeze(model, patterns)
        for module in frozen_modules(model, patterns):
            module.eval()
        for path, module in model.named_modules():
            assert module.training != any(f"{path}.".startswith(f"{part}.") for part in evaluated), (patterns, path)
    freeze(model, ["backbone"])
    model.train()
    for module in frozen_modules(model, ["backbone"]):
        module.eval()
    statistics = model.blocks[0].attn.re_attention_norm.running_mean.clone()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.forward_features(images), model.forward_features(images))
    assert torch.equal(statistics, model.blocks[0].attn.re_attention_norm.running_mean)
