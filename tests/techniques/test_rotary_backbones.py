"""Eva (EVA-02, DINOv3) and Beit: plain until trained, and each technique against its equation in timm's own map."""

import copy
from typing import Any

import pytest
import timm
import torch
from technique_models import stir
from technique_oracle import _Chain, _changed_map, _contrast, _feature_scale
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import nn

import vitaos
from vitaos.techniques.sites import KINDS

_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
MODELS: dict[str, Any] = {
    "EVA-02": lambda: Eva(**_SIZE, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True),
    "EVA": lambda: Eva(**_SIZE, init_values=0.5, scale_attn_inner=True, use_rot_pos_emb=True),
    "DINOv3": lambda: Eva(**_SIZE, qkv_bias=False, init_values=0.5, rope_type="dinov3", use_rot_pos_emb=True,
                          use_abs_pos_emb=False, num_reg_tokens=2),
    "BEiT": lambda: Beit(**_SIZE, init_values=0.5, use_rel_pos_bias=True),
    "BEiT, shared": lambda: Beit(**_SIZE, use_shared_rel_pos_bias=True, qkv_bias=True),
}  # fmt: skip
NAMES = sorted(KINDS[-1].techniques or ())
IDENTITIES = ("attnscale", "featscale")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def oracle(model: Any, name: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """timm's own forward pass without fused attention; what it would drop of its map is where the equation acts."""
    for number, block in enumerate(model.blocks):
        path, attention = f"blocks.{number}", block.attn
        attention.fused_attn = False
        attention.attn_drop = _Chain(
            attention.attn_drop, lambda weights, path=path: _changed_map(weights, (name,), f"{path}.attn", state)
        )
        if name == "featscale":
            attention.proj_drop = _Chain(attention.proj_drop, after=lambda y, path=path: _feature_scale(path, state, y))
        if name == "contranorm":
            block.norm1, block.norm2 = _Chain(block.norm1, before=_contrast), _Chain(block.norm2, before=_contrast)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_plain_until_trained_and_then_the_equation(name: str) -> None:
    model = plain(name)
    with torch.no_grad():
        before = model.forward_features(IMAGES)
        for technique in IDENTITIES:
            attached = vitaos.attach(copy.deepcopy(model), **{technique: True})
            torch.testing.assert_close(attached.forward_features(IMAGES), before, rtol=0, atol=0)
        both = vitaos.attach(copy.deepcopy(model), attnscale=True, featscale=True)
        assert torch.equal(both.forward_features(IMAGES), before)
        for technique in NAMES:
            for fused in (True, False):
                attached = stir(vitaos.attach(copy.deepcopy(model), **{technique: True}), technique)
                for block in attached.blocks:
                    block.attn.fused_attn = fused
                wanted = oracle(copy.deepcopy(model), technique, attached.state_dict()).forward_features(IMAGES)
                assert (wanted - before).abs().max() > 1e-3, technique
                torch.testing.assert_close(attached.forward_features(IMAGES), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_their_training_is_that_of_a_model(name: str) -> None:
    model = vitaos.attach(plain(name).train(), attnscale=True, featscale=True, skip_gain=0.9)
    model(IMAGES).square().sum().backward()
    for key, parameter in model.named_parameters():
        if key.endswith(("attn_scale", "feat_scale_dc", "feat_scale_hf")):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
    model.set_grad_checkpointing(True)
    copied = copy.deepcopy(model)
    copied.zero_grad()
    copied(IMAGES).square().sum().backward()
    for one, other in zip(model.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_what_stays_refused_says_why() -> None:
    with pytest.raises(ValueError, match=r"blocks\.0\.attn is a timm\.layers\.attention\.AttentionRope"):
        vitaos.attach(Eva(**_SIZE, attn_type="rope", use_rot_pos_emb=True), attnscale=True)
    with pytest.raises(ValueError, match="EvaBlockPostNorm"):
        vitaos.attach(Eva(**_SIZE, use_post_norm=True, use_rot_pos_emb=True), attnscale=True)
    with pytest.raises(ValueError, match="token_merging has not been held against its equation on Eva"):
        vitaos.attach(plain("EVA-02"), token_merging=True)
    for name, reason in (
        ("swinv2_tiny_window8_256", "scores are cosines"),
        ("vit_relpos_small_patch16_224", "classes of their own"),
        ("naflexvit_base_patch16_gap", "would count the padding"),
        ("volo_d1_224", "neighborhoods"),
        ("crossvit_tiny_240", "two branches"),
    ):
        with torch.device("meta"):
            model = timm.create_model(name, depth=1) if name.startswith("vit") else timm.create_model(name)
        with pytest.raises(ValueError, match=f"Techniques cannot be attached: the model is a .*{reason}"):
            vitaos.attach(model, attnscale=True)
    with pytest.raises(ValueError, match=r"use torch\.export"):
        torch.jit.script(vitaos.attach(plain("BEiT"), attnscale=True))
