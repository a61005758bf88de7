"""Fused attention stays in use: no softmax and no N x N tensor is made where an identity avoids it."""

from collections import Counter
from typing import Any

import pytest
import timm
import torch
from technique_models import build, images, stir
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import vitaos
from vitaos.techniques import TECHNIQUES
from vitaos.techniques.attnscale import map_bands
from vitaos.techniques.bands import MapBands


class _Operations(TorchDispatchMode):
    """Counts the operations that run, and the tensors of shape (..., tokens, tokens) that they make."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.counts, self.maps = tokens, Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.counts[func.overloadpacket.__name__] += 1
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == (self.tokens, self.tokens):
                self.maps += 1
        return out


@pytest.mark.parametrize("name", [None, *(n for n in TECHNIQUES if n not in ("re_attention", "locality"))])
def test_vit_attention_stays_fused_forward_and_backward(name: str | None) -> None:
    names = (name,) if name else ()
    model = stir(build("ViT", *names), *names).train()
    x = images(model)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), _Operations(tokens=17) as operations:
        model(x).sum().backward()
    fused = sum(count for name, count in operations.counts.items() if "flash_attention" in name)
    passes = {"gfsa": 2, "contranorm": 3}.get(name or "", 1)
    assert fused == 2 * 3 * passes  # forward and backward of three blocks
    others = 3 if name in ("token_selection", "tap") else 0  # the class token's row alone; gates
    assert operations.counts["_softmax"] == others
    assert operations.maps == 0


def test_re_attention_says_that_it_needs_the_map() -> None:
    model = build("ViT", "re_attention")
    with _Operations(tokens=17) as operations:
        model(images(model))
    assert operations.maps > 0
    assert "no fused attention" in TECHNIQUES["re_attention"].summary


@pytest.mark.parametrize("name", [None, "attnscale", "featscale", "gfsa", "centered_attention"])
def test_fused_window_attention_gives_the_numbers_and_gradients_of_the_unfused(name: str | None) -> None:
    names = (name,) if name else ()
    model = stir(build("Swin", *names), *names)
    x = images(model)
    found = []
    for fused in (True, False):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        model.zero_grad()
        logits = model(x)
        logits.square().sum().backward()
        found.append([logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for fused_one, other in zip(*found, strict=True):
        torch.testing.assert_close(fused_one, other, rtol=1e-4, atol=1e-5)


def test_our_swins_are_fused_and_timms_switch_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(model: torch.nn.Module) -> set[bool]:
        return {module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")}

    keywords: dict[str, Any] = {"img_size": 56, "embed_dim": 24, "num_heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1)}
    for name in ("swin_t", "swin_tiny_patch4_window7_224"):
        assert fused(vitaos.create_model(name, **keywords)) == {True}
    assert fused(vitaos.attach(timm.create_model("swin_tiny_patch4_window7_224", **keywords), attnscale=True)) == {
        False
    }
    monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", 0)
    assert fused(vitaos.create_model("swin_t", **keywords)) == {False}


@pytest.mark.parametrize("mask", ["boolean", "additive", "causal"])
def test_masks_of_timm_are_obeyed_with_and_without_fusion(mask: str) -> None:
    plain, model = build("ViT"), build("ViT", "attnscale", "featscale")
    x = images(model)
    allowed = torch.rand(17, 17, generator=torch.Generator().manual_seed(2)) > 0.3
    allowed.fill_diagonal_(True)
    keywords: dict[str, Any] = {
        "boolean": {"attn_mask": allowed},
        "additive": {"attn_mask": torch.zeros(17, 17).masked_fill(~allowed, -1e4)},
        "causal": {"is_causal": True},
    }[mask]
    for fused in (True, False):
        for block in (*plain.blocks, *model.blocks):
            block.attn.fused_attn = fused
        torch.testing.assert_close(model(x, **keywords), plain(x, **keywords), rtol=0, atol=1e-6)


def test_attention_dropout_leaves_the_direct_current_whole() -> None:
    """With every entry of A dropped, A_hat V is -w mean(V): dropout acts on A, before AttnScale splits it."""
    model = build("ViT", "attnscale")
    attention = model.blocks[0].attn
    torch.nn.init.constant_(attention.attn_scale, 0.5)
    v = torch.randn(2, 3, 17, 8)
    found = MapBands(map_bands)(attention, torch.zeros_like, v)
    torch.testing.assert_close(found, (-0.5 * v.mean(2, keepdim=True)).expand_as(v))
