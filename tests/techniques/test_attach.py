"""attach: what it accepts, what it refuses, and that a refused model is left as it was."""

from typing import Any

import pytest
import timm
import torch
from technique_models import BACKBONES, build, cait, distilled, images, swin, vit
from timm.layers import AttentionRope
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

import vitaos
from vitaos import techniques
from vitaos.techniques import TECHNIQUES, attach, attached

BOTH: dict[str, Any] = {"attnscale": True, "featscale": True}


@pytest.mark.parametrize(
    "model",
    [
        distilled(),
        vit(reg_tokens=2),
        vit(reg_tokens=2, no_embed_class=True, global_pool="avg", class_token=False),
        vit(global_pool="map", qk_norm=True, init_values=0.1),
        vit(global_pool="avg", scale_attn_norm=True, num_classes=0),
        cait(global_pool="avg"),
        swin(always_partition=True, dynamic_img_size=True),
    ],
    ids=["distilled", "registers", "no class token", "map pool", "scale norm", "CaiT average", "Swin dynamic"],
)
def test_any_variant_of_a_known_kind(model: nn.Module) -> None:
    model.eval()
    x = images(model)
    expected = model(x)
    assert attach(model, **BOTH) is model
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attn_scale", "feat_scale_dc", "feat_scale_hf")):
                parameter.fill_(0.5)
    assert not torch.allclose(model(x), expected)


@pytest.mark.parametrize("kind", BACKBONES)
def test_names_and_shapes_of_the_parameters(kind: str) -> None:
    plain, model = build(kind), build(kind, "attnscale", "featscale")
    state = dict(model.named_parameters())
    new = set(state) - {name for name, _ in plain.named_parameters()}
    prefixes = (
        ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0"]
        if kind == "Swin"
        else ["blocks.0", "blocks.1", "blocks.2"]
    )
    leaves = ("attn.attn_scale", "feat_scale_dc", "feat_scale_hf")
    assert new == {f"{prefix}.{leaf}" for prefix in prefixes for leaf in leaves}
    for prefix in prefixes:
        block = model.get_submodule(prefix)
        width = block.attn.proj.out_features
        assert state[f"{prefix}.attn.attn_scale"].shape == (block.attn.num_heads,)
        assert state[f"{prefix}.feat_scale_dc"].shape == state[f"{prefix}.feat_scale_hf"].shape == (width,)
    for name in new:
        assert not state[name].any()
        assert state[name].requires_grad
    assert model.no_weight_decay() == plain.no_weight_decay()


def test_off_touches_nothing() -> None:
    model = vit()
    classes = [type(module) for module in model.modules()]
    assert attach(model, attnscale=False, featscale=None) is model
    assert [type(module) for module in model.modules()] == classes
    assert attached(model) == {}


def test_options_reach_the_technique() -> None:
    model = attach(vit(), contranorm={"scale": 0.5}, gfsa={"order": 3})
    assert attached(model) == {
        "contranorm": {"scale": 0.5, "temperature": 1.0, "normalize": True},
        "gfsa": {"order": 3},
    }
    x = images(model)
    assert not torch.equal(model.eval()(x), attach(vit(), contranorm=True).eval()(x))


def test_zero_strength_is_the_identity() -> None:
    plain = build("ViT")
    expected = plain(images(plain))
    for flag in ({"contranorm": {"scale": 0}}, {"neutreno": {"scale": 0.0}}, {"layerscale": {"init": 1.0}}):
        model = attach(build("ViT"), **flag)
        assert torch.equal(model(images(model)), expected), flag


REFUSALS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no transformer": (lambda: nn.Linear(2, 2), BOTH, r"torch.*Linear.*Known kinds: ViT"),
    "a ConvNet": (lambda: timm.create_model("resnet10t"), BOTH, r"resnet.*Known kinds"),
    "parallel blocks": (lambda: vit(block_fn=ParallelScalingBlock), BOTH, r"blocks\.0 is a .*ParallelScalingBlock"),
    "post-norm blocks": (lambda: vit(block_fn=ResPostBlock), BOTH, r"blocks\.0 is a .*ResPostBlock"),
    "other attention": (
        lambda: vit(attn_layer=AttentionRope),
        BOTH,
        r"blocks\.0\.attn is a .*AttentionRope",
    ),
    "differential attention": (
        lambda: vit(attn_layer="diff"),
        {"re_attention": True},
        r"re_attention has not been held against its equation on differential ViT, where there are attnscale",
    ),
    "unknown technique": (vit, {"atnscale": True}, r"no technique 'atnscale'; did you mean attnscale"),
    "unknown technique, off": (vit, {"atnscale": False}, r"no technique"),
    "unknown option": (vit, {"contranorm": {"scael": 1.0}}, r"contranorm has no option 'scael'; it has scale"),
    "option of a technique without": (vit, {"attnscale": {"scale": 1.0}}, r"it has no options"),
    "wrong type": (vit, {"attnscale": "yes"}, r"attnscale takes True, False or a mapping"),
    "wrong type of option": (
        vit,
        {"contranorm": {"scale": "big"}},
        r"contranorm: scale must be a finite number, not 'big'",
    ),
    "truth value for a number": (vit, {"contranorm": {"scale": True}}, r"scale must be a finite number"),
    "fraction for a whole number": (vit, {"gfsa": {"order": 2.5}}, r"order must be a whole number, not 2\.5"),
    "number for a truth value": (vit, {"sigma_reparam": {"keep_norms": 1}}, r"keep_norms must be true or false, not 1"),
    "not finite": (vit, {"neutreno": {"scale": float("nan")}}, r"scale must be a finite number"),
    "order too low": (vit, {"gfsa": {"order": 1}}, r"order .* 2 or more"),
    "order too high": (vit, {"gfsa": {"order": 10**9}}, r"order .* up to 100"),
    "attracted": (vit, {"contranorm": {"scale": -0.1}}, r"contranorm: scale must be between 0"),
    "repelled without bound": (vit, {"contranorm": {"scale": 1e30}}, r"scale must be between 0 \(off\) and 100"),
    "temperature": (vit, {"contranorm": {"temperature": 0}}, r"temperature must be positive"),
    "one block": (lambda: vit(depth=1), {"neutreno": True}, r"one block"),
    "one block, mixed": (lambda: vit(depth=1), {"value_residual": True}, r"no later block to mix"),
    "mixed from where": (vit, {"value_residual": {"from_block": 3}}, r"from_block=3: .* between 1 and 2 .* 3 blocks"),
    "values on Swin": (swin, {"value_residual": True}, r"value_residual is not defined on Swin: values of the first"),
    "no Laplacian head": (vit, {"laplacian_heads": {"fraction": 0.1}}, r"0\.1 of the 3 heads of blocks\.0 is none"),
    "no filter": (vit, {"freqscale": {"filters": 0}}, r"freqscale: groups=16 and filters=0 are 1 at least"),
    "one scale": (vit, {"tap": {"scales": 1}}, r"tap: scales=1: .* make 2 to 16"),
    "pooled off the grid": (lambda: vit(dynamic_img_size=True), {"tap": True}, r"tap: .*dynamic_img_size"),
    "pooled and merged": (vit, {"tap": True, "token_merging": True}, r"tap and token_merging .* lose the grid"),
    "share of heads": (vit, {"laplacian_heads": {"fraction": 1.5}}, r"fraction=1\.5: .* above 0 and at most 1"),
    "pooled by attention": (
        lambda: vit(global_pool="map"),
        {"ggem": True},
        r"ggem: this VisionTransformer has no class",
    ),
    "two class tokens": (distilled, {"ggem": True}, r"ggem: this VisionTransformerDistilled .*distilled"),
    "not pooled": (lambda: vit(global_pool=""), {"ggem": True}, r"ggem: .* not at all"),
    "power 0": (vit, {"ggem": {"power": 0.0}}, r"ggem: power=0"),
    "pooled by class attention": (cait, {"ggem": True}, r"ggem is not defined on CaiT: its class-attention"),
    "LayerScale twice": (lambda: vit(init_values=0.1), {"layerscale": True}, r"blocks\.0 .*LayerScale of its own"),
    "LayerScale 0": (vit, {"layerscale": {"init": 0.0}}, r"cut every branch off"),
    "not on CaiT": (cait, {"re_attention": True}, r"re_attention is not defined on CaiT: its talking heads"),
    "not on Swin": (swin, {"neutreno": True}, r"neutreno is not defined on Swin: values of the first"),
    "cannot combine": (vit, {"gfsa": True, "re_attention": True}, r"gfsa and re_attention cannot act together"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_and_leaves_the_model_alone(case: str) -> None:
    make, flags, message = REFUSALS[case]
    model = make()
    state, classes = set(model.state_dict()), [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        attach(model, **flags)
    assert set(model.state_dict()) == state
    assert [type(module) for module in model.modules()] == classes
    assert attached(model) == {}


def test_refuses_the_same_technique_twice() -> None:
    model = attach(vit(), attnscale=True)
    with pytest.raises(ValueError, match="attnscale is attached to this model already"):
        attach(model, featscale=True, attnscale=True)
    assert list(attached(model)) == ["attnscale"]
    assert list(attached(attach(model, featscale=True))) == ["attnscale", "featscale"]
    with pytest.raises(ValueError, match="re_attention and gfsa cannot act together"):
        attach(attach(vit(), gfsa=True), re_attention=True)


def test_registry_says_what_every_technique_does() -> None:
    assert techniques.names() == list(TECHNIQUES)
    for name, technique in TECHNIQUES.items():
        assert technique.name == name
        assert technique.summary
        assert technique.start
        for other in (*technique.conflicts, name):
            assert other in TECHNIQUES
    assert techniques.owner_of("blocks.3.attn.attn_scale") == "attnscale"
    assert techniques.owner_of("blocks.3.feat_scale_hf") == "featscale"
    assert techniques.owner_of("blocks.3.attn.qkv.weight") is None


@pytest.mark.parametrize("name", ["neutreno", "value_residual", "sigma_reparam", "re_attention"])
def test_what_cannot_run_twice_says_that_gradient_checkpointing_cannot_be(name: str) -> None:
    model = build("ViT", name).train()
    model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match=f"{name}: .*gradient checkpointing"):
        model(images(model)).sum().backward()


def test_gradient_checkpointing_changes_nothing_else() -> None:
    for kind in BACKBONES:
        plain, saving = (build(kind, "attnscale", "featscale").train() for _ in range(2))
        saving.set_grad_checkpointing(True)
        for model in (plain, saving):
            model(images(model)).square().sum().backward()
        expected = dict(plain.named_parameters())
        for name, parameter in saving.named_parameters():
            assert torch.equal(parameter.grad, expected[name].grad), name


def test_shapes_alone_pass_through_every_technique() -> None:
    """Refusals before the start and the counting of operations run models on the meta device."""
    for name in techniques.names():
        model = vitaos.create_model("deit_ti12", depth=2, img_size=32, device="meta", **{name: True})
        assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 1000), name
