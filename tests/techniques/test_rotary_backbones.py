"""Backbones beside ViT, CaiT, Swin: plain until trained, then each technique against its equation in timm's map."""

import copy
from typing import Any

import pytest
import timm
import torch
from map_oracle import changed_map
from technique_models import stir
from technique_oracle import _Chain, _contrast, _feature_scale
from timm.models.beit import Beit
from timm.models.crossvit import CrossVit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.volo import VOLO
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vitaos
from vitaos.techniques.sites import find_sites, kind_of

_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
MODELS: dict[str, Any] = {
    "EVA-02": lambda: Eva(**_SIZE, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True),
    "EVA": lambda: Eva(**_SIZE, init_values=0.5, scale_attn_inner=True, use_rot_pos_emb=True),
    "DINOv3": lambda: Eva(**_SIZE, qkv_bias=False, init_values=0.5, rope_type="dinov3", use_rot_pos_emb=True,
                          use_abs_pos_emb=False, num_reg_tokens=2),
    "BEiT": lambda: Beit(**_SIZE, init_values=0.5, use_rel_pos_bias=True),
    "BEiT, shared": lambda: Beit(**_SIZE, use_shared_rel_pos_bias=True, qkv_bias=True),
    "rope ViT": lambda: Eva(**_SIZE, attn_type="rope", use_rot_pos_emb=True, scale_attn_inner=True),
    "rope ViT, shared keys": lambda: Eva(**_SIZE | {"embed_dim": 32, "num_heads": 4}, attn_type="rope",
                                         qkv_fused=False, num_kv_heads=2, use_rot_pos_emb=True),
    "Swin V2": lambda: SwinTransformerV2(img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 1),
                                         num_heads=(3, 6), num_classes=5),
    "RelPos": lambda: VisionTransformerRelPos(**_SIZE, rel_pos_type="mlp", init_values=0.5, qk_norm=True),
    "RelPos, shared": lambda: VisionTransformerRelPos(**_SIZE, shared_rel_pos=True, class_token=True, rel_pos_dim=16),
    "RelPos, post-norm": lambda: VisionTransformerRelPos(**_SIZE, block_fn=ResPostRelPosBlock, rel_pos_type="bias"),
    "NaFlexViT": lambda: NaFlexVit(img_size=32, num_classes=5, embed_dim=24, depth=2, num_heads=3, patch_size=8),
    "VOLO": lambda: VOLO(layers=(1, 2), img_size=32, embed_dims=(24, 48), num_heads=(3, 6), mlp_ratio=2,
                         stem_hidden_dim=8, downsamples=(True, False), outlook_attention=(True, False), num_classes=5),
    "CrossViT": lambda: CrossVit(img_size=32, img_scale=(1.0, 0.75), patch_size=(8, 12), embed_dim=(24, 48),
                                 depth=((1, 2, 1),), num_heads=(3, 3), mlp_ratio=(2, 2, 1), num_classes=5),
}  # fmt: skip
IDENTITIES = ("attnscale", "featscale")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
            if key.endswith(("norm1.weight", "norm2.weight")):  # norms behind a branch begin at 0 or nearly so
                parameter.fill_(1)
    return model


def features(model: Any) -> torch.Tensor:
    """What the blocks make of the images, in one tensor."""
    found = model.forward_features(IMAGES)
    found = found["patches"] if isinstance(found, dict) else found
    return torch.cat([part.flatten() for part in found]) if isinstance(found, list) else found


def _all_contrast(x: torch.Tensor) -> torch.Tensor:
    return _contrast(x.flatten(1, -2)).view(x.shape)


def oracle(model: Any, name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """timm's own forward pass without fused attention; what it would drop of its map is where the equation acts."""
    model.load_state_dict(state, strict=False)  # statistics of a stem may have been stirred too
    for site in find_sites(model):
        path, block, attention = site.path, site.block, site.attention
        attention.fused_attn = False
        attention.attn_drop = _Chain(
            attention.attn_drop, lambda weights, path=path: changed_map(weights, (name,), f"{path}.attn", state)
        )
        if name == "featscale":
            scale = lambda y, path=path: _feature_scale(path, state, y)  # noqa: E731  # it has a default for each path
            if hasattr(block, "window_area"):  # windows are merged behind the projection
                block._attn = lambda x, of=block._attn, scale=scale: scale(of(x))
            else:
                attention.proj_drop = _Chain(attention.proj_drop, after=scale)
        if name == "contranorm":
            block.norm1, block.norm2 = (
                _Chain(block.norm1, before=_all_contrast),
                _Chain(block.norm2, before=_all_contrast),
            )
    return model


@pytest.mark.parametrize("name", MODELS)
def test_plain_until_trained_and_then_the_equation(name: str) -> None:
    model = plain(name)
    with torch.no_grad():
        before = features(model)
        for technique in IDENTITIES:
            attached = vitaos.attach(copy.deepcopy(model), **{technique: True})
            assert torch.equal(features(attached), before)
        both = vitaos.attach(copy.deepcopy(model), attnscale=True, featscale=True)
        assert torch.equal(features(both), before)
        for technique in sorted(kind_of(model).techniques or ()):
            for fused in (True, False):
                attached = stir(vitaos.attach(copy.deepcopy(model), **{technique: True}), technique)
                for site in find_sites(attached):
                    site.attention.fused_attn = fused
                wanted = features(oracle(copy.deepcopy(model), technique, attached.state_dict()))
                assert (wanted - before).abs().max() > 1e-3, technique
                torch.testing.assert_close(features(attached), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_their_training_is_that_of_a_model(name: str) -> None:
    model = vitaos.attach(plain(name).train(), attnscale=True, featscale=True, skip_gain=0.9)
    torch.manual_seed(1)  # RelPos has dropout of its own
    model(IMAGES).square().sum().backward()
    for key, parameter in model.named_parameters():
        if key.endswith(("attn_scale", "feat_scale_dc", "feat_scale_hf")):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
    if name != "CrossViT":  # timm has no checkpointing for it
        model.set_grad_checkpointing(True)
    copied = copy.deepcopy(model)
    copied.zero_grad()
    torch.manual_seed(1)
    copied(IMAGES).square().sum().backward()
    for one, other in zip(model.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_stays_refused_says_why() -> None:
    with pytest.raises(ValueError, match="EvaBlockPostNorm"):
        vitaos.attach(Eva(**_SIZE, use_post_norm=True, use_rot_pos_emb=True), attnscale=True)
    with pytest.raises(ValueError, match="token_merging has not been held against its equation on Eva"):
        vitaos.attach(plain("EVA-02"), token_merging=True)
    with pytest.raises(ValueError, match="contranorm has not been held against its equation on Swin V2"):
        vitaos.attach(plain("Swin V2"), contranorm=True)
    with pytest.raises(ValueError, match=r"use torch\.export"):
        torch.jit.script(vitaos.attach(plain("BEiT"), attnscale=True))
    padded = {"patches": torch.zeros(1, 4, 192).double(), "patch_coord": torch.zeros(1, 4, 2, dtype=torch.int64)}
    padded["patch_valid"] = torch.tensor([[True, True, True, False]])
    with pytest.raises(ValueError, match="would count the padding"):
        vitaos.attach(plain("NaFlexViT"), attnscale=True)(padded)


def test_stages_and_branches_have_their_blocks_in_order() -> None:
    assert [site.path for site in find_sites(plain("VOLO"))] == ["network.2.0", "network.2.1"]
    assert [site.path for site in find_sites(plain("CrossViT"))] == [
        "blocks.0.blocks.0.0", "blocks.0.blocks.1.0", "blocks.0.blocks.1.1"
    ]  # fmt: skip
    assert [site.dim for site in find_sites(plain("CrossViT"))] == [24, 48, 48]


@pytest.mark.parametrize(
    ("name", "path"), [("Swin V2", "layers.0.blocks.1"), ("VOLO", "network.2.1"), ("CrossViT", "blocks.0.blocks.1.1")]
)
def test_a_strange_block_among_known_ones_is_refused_by_name(name: str, path: str) -> None:
    model = plain(name)
    model.set_submodule(path, torch.nn.Identity())
    with pytest.raises(ValueError, match=rf"{path} is a torch\..*Identity"):
        find_sites(model)


@pytest.mark.parametrize("name", ["EVA-02", "BEiT", "Swin V2", "RelPos", "NaFlexViT", "VOLO", "CrossViT"])
def test_both_techniques_add_two_small_products_a_block_at_most(name: str) -> None:
    """Counted without a value: means through the projection, C x C an image (a window) and a block."""
    counts = []
    for words in ({}, dict.fromkeys(IDENTITIES, True)):
        with torch.device("meta"), torch.no_grad():
            model = MODELS[name]().requires_grad_(False).eval()
            model = vitaos.attach(model, **words).requires_grad_(False) if words else model
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, 32, 32))
        counts.append(counter.get_total_flops())
    windows = [getattr(site.block, "window_area", 0) for site in find_sites(model)]
    tokens = 16 * 16  # of Swin V2's first stage; its second has a quarter
    most = sum(2 * 2 * site.dim**2 * (max(1, tokens // area) if area else 1)
               for site, area in zip(find_sites(model), windows, strict=True))  # fmt: skip
    assert counts[0] < counts[1] <= counts[0] + most


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("swinv2_tiny_window8_256", "12"),
        ("swinv2_cr_tiny_ns_224", "classes of their own"),
        ("vit_relpos_base_patch16_224", "12"),
        ("vit_relpos_medium_patch16_rpn_224", "12"),
        ("naflexvit_base_patch16_gap", "12"),
        ("volo_d1_224", "14"),
        ("crossvit_tiny_240", "15"),
        ("vit_pe_core_base_patch16_224", "12"),
        ("maxvit_tiny_tf_224", "MaxxVit"),
        ("xcit_nano_12_p16_224", "Xcit"),
        ("mvitv2_tiny", "MultiScaleVit"),
        ("pit_ti_224", "PoolingVisionTransformer"),
        ("levit_128s", "Levit"),
    ],
)
def test_a_name_of_each_family_is_attached_or_refused(name: str, outcome: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        if outcome.isdigit():
            assert sum("attn_scale" in key for key in vitaos.attach(model, attnscale=True).state_dict()) == int(outcome)
            return
        with pytest.raises(ValueError, match=f"cannot be attached.*{outcome}.*Known kinds: ViT"):
            vitaos.attach(model, attnscale=True)
