"""create_model: every name, every depth, every keyword that the recipes need, and clear refusals."""

import itertools
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.cait import Cait
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitaos
from vitaos import models, techniques

# Counted by building the release's models with 1000 classes at 224 px: plain, + AttnScale, + FeatScale.
COUNTS = {
    "deit_s12": (22_050_664, 22_050_736, 22_059_880),
    "deit_s24": (43_344_232, 43_344_376, 43_362_664),
    "deit_b12": (86_567_656, 86_567_800, 86_586_088),
    "deit_b24": (171_622_120, 171_622_408, 171_658_984),
    "cait_s24": (46_916_200, 46_916_392, 46_934_632),
    "swin_s": (49_606_258, 49_606_540, 49_624_306),
}
MINIATURE: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "num_heads": 3, "num_classes": 10}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_the_release(name: str) -> None:
    plain, attnscale, featscale = COUNTS[name]
    both = plain + (attnscale - plain) + (featscale - plain)
    for flags, expected in (
        ({}, plain),
        ({"attnscale": True}, attnscale),
        ({"featscale": True}, featscale),
        ({"attnscale": True, "featscale": True}, both),
    ):
        assert count(vitaos.create_model(name, device="meta", **flags)) == expected, flags


@pytest.mark.parametrize("name", models.names())
def test_every_name_is_a_timm_class_of_the_right_shape(name: str) -> None:
    model: Any = vitaos.create_model(name, device="meta", num_classes=7)
    family, size = name.split("_")
    assert type(model) is {"deit": VisionTransformer, "cait": Cait, "swin": SwinTransformer}[family]
    assert model.patch_embed.img_size == (224, 224)
    assert model.num_classes == 7
    if family == "swin":
        shapes = {"t": (96, (2, 2, 6, 2)), "s": (96, (2, 2, 18, 2)), "b": (128, (2, 2, 18, 2))}
        assert (model.embed_dim, tuple(len(stage.blocks) for stage in model.layers)) == shapes[size]
        assert model.norm.eps == 1e-5
    else:
        widths = {"ti": 192, "xxs": 192, "xs": 288, "s": 384, "b": 768}
        letters = size.rstrip("0123456789")
        assert (model.embed_dim, len(model.blocks)) == (widths[letters], int(size.removeprefix(letters)))
        assert model.norm.eps == 1e-6
        assert model.blocks[0].attn.num_heads == widths[letters] // (64 if family == "deit" else 48)


def test_names_of_the_contract() -> None:
    deit = {f"deit_{size}{depth}" for size, depth in itertools.product(("ti", "s", "b"), (12, 24))}
    assert set(models.names()) == deit | {f"cait_{size}" for size in ("xxs24", "xs24", "s24", "s36")} | {
        f"swin_{size}" for size in "tsb"
    }


@pytest.mark.parametrize(("name", "depth", "blocks"), [("deit_s24", 36, 36), ("cait_s24", 3, 3), ("swin_t", 24, 24)])
def test_any_depth(name: str, depth: int, blocks: int) -> None:
    model = vitaos.create_model(name, depth=depth, attnscale=True, device="meta")
    scales = [path for path, _ in model.named_parameters() if path.endswith("attn_scale")]
    assert len(scales) == blocks


def test_swin_depth_is_the_third_stages() -> None:
    model: Any = vitaos.create_model("swin_t", depth=10, device="meta")
    assert [len(stage.blocks) for stage in model.layers] == [2, 2, 4, 2]
    model = vitaos.create_model("swin_s", depths=(1, 1, 2, 1), device="meta")
    assert [len(stage.blocks) for stage in model.layers] == [1, 1, 2, 1]
    with pytest.raises(ValueError, match=r"swin_t: depth=6 cannot be had.* 7 at least"):
        vitaos.create_model("swin_t", depth=6, device="meta")
    with pytest.raises(ValueError, match=r"depth=12 or depths=\(2, 2, 6, 2\), not both"):
        vitaos.create_model("swin_t", depth=12, depths=(2, 2, 6, 2), device="meta")


def test_miniatures_learn_on_small_images() -> None:
    deep = vitaos.create_model("deit_s24", depth=24, attnscale=True, featscale=True, **MINIATURE)
    registers = vitaos.create_model("deit_s12", depth=2, reg_tokens=4, **MINIATURE)
    window = {**MINIATURE, "embed_dim": 12, "window_size": 2, "depths": (1, 2), "num_heads": (1, 2)}
    swin = vitaos.create_model("swin_t", featscale=True, **window)
    for model in (deep, registers, swin):
        logits = model(torch.randn(2, 3, 16, 16))
        assert logits.shape == (2, 10)
        logits.square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_deit_starts_as_deit() -> None:
    torch.manual_seed(0)
    model: Any = vitaos.create_model("deit_s12", depth=1)
    for value in (model.cls_token, model.pos_embed, model.blocks[0].attn.qkv.weight, model.head.weight):
        assert 0.018 < value.std() < 0.022
        assert value.abs().max() < 2
    assert not model.blocks[0].attn.qkv.bias.any()


def test_other_names_are_timms() -> None:
    model: Any = vitaos.create_model("vit_tiny_patch16_384", num_classes=3, depth=2, attnscale=True, device="meta")
    assert model.patch_embed.img_size == (384, 384)
    assert len(model.blocks) == 2
    plain = vitaos.create_model("resnet10t", num_classes=3)
    assert plain(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_timm_knows_the_names() -> None:
    for name in models.names():
        registered = set(timm.list_models(f"{name}*"))
        assert {name, *(f"{name}_{technique}" for technique in techniques.names())} <= registered
    model = timm.create_model("deit_ti12_attnscale", num_classes=10, img_size=32, depth=2)
    assert techniques.attached(model) == {"attnscale": {}}
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    again = timm.create_model("cait_xxs24_featscale", depth=1, device="meta")
    assert techniques.attached(again) == {"featscale": {"release_pace": False, "dc": 0.0, "hf": 0.0}}
    with pytest.raises(ValueError, match="Nothing is downloaded"):
        timm.create_model("deit_ti12", pretrained=True)


def _drop_paths(model: nn.Module) -> list[float]:
    return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]


def test_regularization_means_the_same_in_every_family() -> None:
    keywords = models.regularization_keywords(drop_path=0.3, proj_drop=0.2)
    rising = vitaos.create_model("deit_s12", depth=4, device="meta", **keywords)
    assert _drop_paths(rising) == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    constant = vitaos.create_model("cait_s24", depth=4, device="meta", **keywords)
    assert _drop_paths(constant) == pytest.approx([0.3] * 4)  # one module serves both branches
    windows = vitaos.create_model("swin_t", depths=(1, 1, 1, 1), device="meta", **keywords)
    assert _drop_paths(windows) == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    for model in (rising, constant, windows):
        rates = {path: module.p for path, module in model.named_modules() if isinstance(module, nn.Dropout)}
        patch = {path: rate for path, rate in rates.items() if "blocks_token_only" not in path}
        assert {rate for path, rate in patch.items() if path.endswith(("proj_drop", "drop1", "drop2"))} == {0.2}
        assert {rate for path, rate in patch.items() if path.endswith(("attn_drop", "head_drop", "pos_drop"))} == {0.0}
    assert models.regularization_keywords() == {}


def test_unregularized_is_the_default_everywhere() -> None:
    for name in ("deit_ti12", "cait_xxs24", "swin_t"):
        assert _drop_paths(vitaos.create_model(name, device="meta")) == []


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("deit_s42", {}, r"no model 'deit_s42'; did you mean deit_s.*Known: deit_ti12"),
        ("deit_s24_atnscale", {}, r"no model 'deit_s24_atnscale'; did you mean deit_s24_attnscale"),
        ("deit_s12", {"atnscale": True}, r"deit_small_patch16_224 takes no keyword 'atnscale'. Techniques: attnscale"),
        (
            "swin_t",
            {"pos_drop_rate": 0.1},
            r"swin_tiny_patch4_window7_224 takes no keyword 'pos_drop_rate' \(recipe.pos_drop",
        ),
        ("deit_s12", {"num_heads": 5}, r"cannot be built with .*num_heads=5.*divisible"),
        ("deit_s12", {"pretrained": True}, r"load_weights"),
        ("deit_s12_attnscale", {"attnscale": True}, r"give one of the two"),
        ("deit_s12", {"attnscale": 3}, r"attnscale takes True, False or a mapping"),
        ("deit_s12", {"depth": 0}, r"depth=0"),
        ("deit_s12", {"depth": "12"}, r"depth='12'.*whole number"),
        ("deit_s13", {}, r"did you mean deit_s12 or deit_s24 or "),
        ("resnet10t", {"attnscale": True}, r"Known kinds"),
    ],
)
def test_refusals(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vitaos.create_model(name, **keywords)


def test_networks_for_images_of_any_size_take_an_img_size() -> None:
    model = vitaos.create_model("resnet10t", img_size=40, num_classes=3).eval()
    assert model(torch.zeros(1, 3, 40, 40)).shape == (1, 3)


def test_deit_without_a_class_token() -> None:
    model: Any = vitaos.create_model("deit_ti12", depth=1, class_token=False, global_pool="avg", **MINIATURE)
    assert model.cls_token is None
