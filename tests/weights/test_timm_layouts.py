"""Files of DINOv2, OpenCLIP, CLIP and MAE: timm's own filter brings them to timm's names, then ours to the model."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.weights.small_models import TOKENS, assert_same, make, stirred
from vitaos.weights.load import load_weights


def dinov2(source: nn.Module) -> dict[str, Tensor]:
    """A model with register tokens under DINOv2's names: its class token's position stands in pos_embed."""
    state = dict(source.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 24)
    state["pos_embed"] = torch.cat([torch.full_like(state["cls_token"], 0.25), state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - 0.25
    return state


def test_dinov2_with_registers() -> None:
    keywords: dict[str, Any] = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
    source = stirred(timm.create_model("vit_small_patch14_reg4_dinov2", **{**TOKENS, **keywords})).eval()
    with torch.no_grad():
        source.cls_token.mul_(2).round_().div_(2)  # so that adding and taking 0.25 is exact
    model = timm.create_model("vit_small_patch14_reg4_dinov2", **{**TOKENS, **keywords}).eval()
    report = load_weights(model, dinov2(source))
    assert not report.missing
    assert report.unexpected == ["mask_token"]
    assert_same(model, source)
    larger = timm.create_model("vit_small_patch14_reg4_dinov2", **{**TOKENS, **keywords, "img_size": 24})
    assert load_weights(larger, dinov2(source)).resized["pos_embed"] == ((1, 16, 24), (1, 36, 24))


def test_mae_encoders_load_and_their_decoder_is_reported() -> None:
    source, model = stirred(make(num_classes=0)), make(attnscale=True)
    state = {**source.state_dict(), "mask_token": torch.zeros(1, 1, 8), "decoder_norm.weight": torch.zeros(8)}
    report = load_weights(model, {"model": state})
    assert set(report.unexpected) == {"mask_token", "decoder_norm.weight"}
    assert report.missing_backbone == ["head.weight", "head.bias"]
    assert "attnscale: no values in the checkpoint, start at the identity" in str(report)


@pytest.mark.parametrize("prefix", ["visual.trunk.", "module.visual.trunk."])
def test_openclip_towers_of_timm(prefix: str) -> None:
    source, model = stirred(make()), make()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    state[f"{prefix.removesuffix('visual.trunk.')}text.token_embedding.weight"] = torch.zeros(3, 3)
    report = load_weights(model, state)
    assert not report.missing
    assert_same(model, source)


def test_clip_of_openai() -> None:
    keywords: dict[str, Any] = {**TOKENS, "pre_norm": True}
    source = stirred(timm.create_model("vit_base_patch32_clip_224", **keywords)).eval()
    state = source.state_dict()
    swaps = (
        *(("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("attn.qkv.", "attn.in_proj_")),
        *(("attn.proj", "attn.out_proj"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc")),
        *(("mlp.fc2", "mlp.c_proj"), ("blocks.", "transformer.resblocks.")),
    )
    clip = {}
    for key, value in state.items():
        name = key
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        clip[f"visual.{name}"] = value
    clip["visual.class_embedding"] = clip.pop("visual.cls_token").flatten()
    clip["visual.positional_embedding"] = clip.pop("visual.pos_embed")[0]
    clip["visual.ln_post.weight"], clip["visual.ln_post.bias"] = (
        clip.pop("visual.norm.weight"),
        clip.pop("visual.norm.bias"),
    )
    clip["visual.proj"] = clip.pop("visual.head.weight").T
    del clip["visual.head.bias"]
    model = timm.create_model("vit_base_patch32_clip_224", **keywords).eval()
    report = load_weights(model, clip)
    assert not report.missing
    with torch.no_grad():
        source.head.bias.zero_()  # CLIP's projection has none
    assert_same(model, source)
    larger = timm.create_model("vit_base_patch32_clip_224", **{**keywords, "img_size": (24, 12)})
    assert load_weights(larger, clip).resized["pos_embed"] == ((1, 17, 24), (1, 19, 24))
