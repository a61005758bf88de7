"""Differential attention (timm's ``attn_layer="diff"``): plain at 0, and each technique against its equation."""

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
from map_oracle import State, changed_map
from technique_models import images, stir, vit
from technique_oracle import _Chain, _contrast, _feature_scale
from torch import Tensor

import vitaos
from vitaos.analysis.measure import measure
from vitaos.techniques.sites import kind_of

FORMS: dict[str, dict[str, Any]] = {
    "of the paper": {},
    "normalized, with registers": {"qk_norm": True, "scale_attn_norm": True, "reg_tokens": 2},
}


def plain(form: str = "of the paper", dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    model = vit(attn_layer="diff", **FORMS[form]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model.to(dtype)


NAMES = sorted(kind_of(plain()).techniques or ())


def _attention(attention: Any, names: tuple[str, ...], path: str, state: State, x: Tensor) -> Tensor:
    """The paper's equation with both maps in memory; of each head, the first half of its channels belongs to A_1."""
    batch, tokens, width = x.shape
    heads, lambda_init = attention.num_heads, 0.8 - 0.6 * torch.e ** (-0.3 * int(path.split(".")[1]))
    q, k, v = attention.qkv(x).chunk(3, -1)
    one, other = [], []
    for head in range(heads):
        for half, maps in enumerate((one, other)):
            start = head * width // heads + half * width // heads // 2
            part = slice(start, start + width // heads // 2)
            query, key = attention.q_norm(q[..., part]), attention.k_norm(k[..., part])
            maps.append((query @ key.transpose(1, 2) / (width // heads // 2) ** 0.5).softmax(-1))
    first, second = (
        (attention.get_parameter(f"lambda_q{i}") * attention.get_parameter(f"lambda_k{i}")).sum().float().exp()
        for i in (1, 2)  # timm computes lambda in float32
    )
    weights = torch.stack(one, 1) - (first - second + lambda_init) * torch.stack(other, 1)
    y = changed_map(weights, names, path, state) @ v.view(batch, tokens, heads, -1).transpose(1, 2)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.sub_norm.weight * (1 - lambda_init)
    return attention.proj(attention.norm(y.transpose(1, 2).reshape(batch, tokens, width)))


def oracle(model: Any, names: tuple[str, ...], state: State) -> Any:
    for number, block in enumerate(model.blocks):
        path, attention = f"blocks.{number}", block.attn

        def forward(x: Tensor, attention: Any = attention, path: str = path, **_: Any) -> Tensor:
            y = _attention(attention, names, f"{path}.attn", state, x)
            return _feature_scale(path, state, y) if "featscale" in names else y

        attention.forward = forward
        if "contranorm" in names:
            block.norm1, block.norm2 = _Chain(block.norm1, before=_contrast), _Chain(block.norm2, before=_contrast)
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", [*((name,) for name in NAMES), ("attnscale", "featscale")])
def test_equals_its_equation(form: str, names: tuple[str, ...]) -> None:
    model = plain(form)
    x = images(model, dtype=torch.float64)
    before = model(x)
    torch.testing.assert_close(oracle(copy.deepcopy(model), (), {})(x), before, rtol=0, atol=1e-9)
    attached = stir(vitaos.attach(copy.deepcopy(model), **dict.fromkeys(names, True)), *names)
    state = dict(attached.named_parameters())
    wanted = oracle(copy.deepcopy(model), names, state)(x)
    assert (wanted - before).abs().max() > 1e-4
    added = [value for key, value in state.items() if key not in dict(model.named_parameters())]
    gradients = torch.autograd.grad(wanted.square().sum(), added) if added else ()
    for fused in (True, False):
        for block in attached.blocks:
            block.attn.fused_attn = fused
        found = attached(x)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
        for one, other in zip(
            torch.autograd.grad(found.square().sum(), added) if added else (), gradients, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("form", FORMS)
def test_starts_as_the_plain_model(form: str, autocast: bool) -> None:
    model = plain(form, torch.float32)
    x = images(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = model(x)
        for flags in ({"attnscale": True}, {"featscale": True}, {"attnscale": True, "featscale": True}, {"gfsa": True}):
            assert torch.equal(vitaos.attach(copy.deepcopy(model), **flags)(x), before), flags


def test_is_a_model_like_others() -> None:
    """Compiled in one graph, exported, scripted, checkpointed; built by its name in timm and by ours."""
    model = stir(vitaos.attach(plain(dtype=torch.float32), attnscale=True, featscale=True), "attnscale", "featscale")
    x = images(model)
    wanted = model(x)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), wanted)
        torch.testing.assert_close(torch.jit.script(model)(x), wanted)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), wanted)
    checkpointed = copy.deepcopy(model).train()
    checkpointed.set_grad_checkpointing(True)
    checkpointed(x).square().sum().backward()
    model.train()(x).square().sum().backward()
    for (path, one), other in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None, path
        torch.testing.assert_close(one.grad, other.grad)
    with torch.device("meta"):
        vitaos.attach(timm.create_model("vit_dwee_patch16_reg1_gap_256", depth=1), attnscale=True)
        ours = vitaos.create_model("deit_ti12", depth=1, attn_layer="diff", attnscale=True, featscale=True)
    assert ours.blocks[0].attn.attn_scale.shape == (3,)


def test_attnscale_is_measured_on_both_maps_of_a_head() -> None:
    model = stir(vitaos.attach(plain(dtype=torch.float32), attnscale=True), "attnscale")
    layer = measure(model, [images(model)], label="diff").attention[0]
    assert layer.applied is not None
    w_P = model.blocks[0].attn.attn_scale.detach().repeat_interleave(2).numpy()
    detail = slice(1, layer.response.shape[-1] // 2)  # any frequencies but zero, which lies in the middle
    np.testing.assert_allclose(
        layer.applied[:, detail], np.abs(1 + w_P)[:, None] * layer.response[:, detail], rtol=1e-4
    )
