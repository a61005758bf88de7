"""Files of DINOv2, OpenCLIP, CLIP and MAE: timm's own filter brings them to timm's names, then ours to the model."""

from pathlib import Path
from typing import Any

import numpy as np
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


def augreg(source: nn.Module, heads: int) -> dict[str, np.ndarray]:
    """A model's weights in the layout of Google's files."""
    arrays, width = {}, source.get_parameter("cls_token").shape[-1]
    for key, tensor in source.state_dict().items():
        value = tensor.numpy()
        name = key.replace("pos_embed", "Transformer/posembed_input/pos_embedding").replace("cls_token", "cls")
        if key.startswith("blocks."):
            _, number, inner = key.split(".", 2)
            place = f"Transformer/encoderblock_{number}/"
            if inner.startswith("attn.qkv"):
                for part, piece in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                    attention = f"{place}MultiHeadDotProductAttention_1/{part}/"
                    if inner.endswith("weight"):
                        arrays[f"{attention}kernel"] = piece.T.reshape(width, heads, -1)
                    else:
                        arrays[f"{attention}bias"] = piece.reshape(heads, -1)
                continue
            if inner == "attn.proj.weight":
                value = value.T.reshape(heads, -1, width)
            name = place + inner.replace("attn.proj", "MultiHeadDotProductAttention_1.out")
            for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2"), ("mlp.fc1", "MlpBlock_3.Dense_0"),
                                 ("mlp.fc2", "MlpBlock_3.Dense_1")):  # fmt: skip
                name = name.replace(ours, theirs)
        name = name.replace("patch_embed.proj", "embedding")
        name = "Transformer/encoder_norm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        if name.endswith("weight"):
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
            name = name.replace("weight", "scale" if "Norm_" in name or "_norm" in name else "kernel")
        arrays[name.replace(".", "/")] = value
    return arrays


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_augreg_files_of_flax(prefix: str, tmp_path: Path) -> None:
    """Also read by timm's own loader, so that the layout written here is the one that it knows."""
    source, model = stirred(make()).eval(), make(attnscale=True).eval()
    arrays = {f"{prefix}{name}": value for name, value in augreg(source, TOKENS["num_heads"]).items()}
    np.savez(tmp_path / "S_16.npz", **arrays)
    by_timm = make().eval()
    by_timm.load_pretrained(str(tmp_path / "S_16.npz"))
    assert_same(by_timm, source)
    report = load_weights(model, tmp_path / "S_16.npz")
    assert report.started_as_identity == ["attnscale"]
    assert not report.missing_backbone
    assert not report.unexpected
    assert_same(model, source)
    larger = make(img_size=24)
    assert "pos_embed" in load_weights(larger, tmp_path / "S_16.npz").resized
    with pytest.raises(ValueError, match="another architecture"):
        load_weights(make(depth=TOKENS["depth"] + 1), tmp_path / "S_16.npz")
    with pytest.raises(ValueError, match="5-class"):
        load_weights(make(num_classes=3), tmp_path / "S_16.npz")


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz .*holds something other than arrays"):
        load_weights(make(), tmp_path / "objects.npz")
