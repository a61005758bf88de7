"""The class token's row of the last block: against the map in memory, and what stays as it was."""

import copy
from typing import Any

import pytest
import timm
import torch
from technique_models import build, cait, distilled, images, stir, swin, vit
from torch import Tensor, nn

from vitaos.techniques import attach, training_pass
from vitaos.techniques.class_row_watch import watch_class_row
from vitaos.techniques.record import record_in


def row_of(model: Any, x: Tensor) -> Tensor:
    """The row that a training step is given."""
    watched = watch_class_row(model)
    with training_pass(model)():
        model(x)
        return watched.take()


def entering(module: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    """What enters a module."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    hook.remove()
    return seen[0]


def map_of_vit(attention: Any, x_BNC: Tensor) -> Tensor:
    """The mean map of the heads, by its definition, AttnScale and score terms included."""
    heads = attention.num_heads
    q, k, _ = attention.qkv(x_BNC).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    scores = q @ k.transpose(-2, -1) * attention.scale
    for _, term in getattr(attention, "scores", ()):
        scores = scores + term(attention, q, k)
    maps = scores.softmax(-1)
    if hasattr(attention, "attn_scale"):
        maps = maps + attention.attn_scale.view(-1, 1, 1) * (maps - 1 / maps.shape[-1])
    return maps.mean(1)


@pytest.mark.parametrize(
    ("keywords", "techniques"),
    [({}, ()), ({"qk_norm": True, "reg_tokens": 2}, ("attnscale", "featscale")), ({}, ("attnscale", "locality"))],
)
def test_the_row_of_a_vit_is_that_of_its_map(keywords: dict[str, Any], techniques: tuple[str, ...]) -> None:
    model: Any = stir(build("ViT", *techniques, **keywords), *techniques).double()
    x = images(model, dtype=torch.float64)
    expected = map_of_vit(model.blocks[-1].attn, entering(model.blocks[-1].attn, model, x))
    row = row_of(model, x)
    torch.testing.assert_close(row, expected[:, 0, model.num_prefix_tokens :])
    assert not row.requires_grad
    assert row.shape == (2, 16)


def test_the_row_of_cait_is_that_of_its_last_class_attention() -> None:
    model: Any = stir(build("CaiT", "attnscale"), "attnscale").double()
    x, attention = images(model, dtype=torch.float64), model.blocks_token_only[-1].attn
    tokens = entering(attention, model, x)
    q, k = (layer(tokens).unflatten(2, (4, -1)).transpose(1, 2) for layer in (attention.q, attention.k))
    expected = (q[:, :, :1] @ k.transpose(-2, -1) * attention.scale).softmax(-1).mean(1).squeeze(1)
    torch.testing.assert_close(row_of(model, x), expected[:, 1:])


@pytest.mark.parametrize("make", [vit, cait, distilled])
def test_the_model_stays_as_it_is(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x, state = images(model), {name: value.clone() for name, value in model.state_dict().items()}
    plain = model(x)
    watched = watch_class_row(watch_class_row(model) and model)  # twice is once
    assert torch.equal(model(x), plain)
    with training_pass(model)():
        assert torch.equal(model(x), plain)
        assert watched.take().shape == (2, 16)
        model(x)
    record: Any = record_in(model)
    assert record.class_row_BM is None
    with pytest.raises(ValueError, match="left by a forward pass within"):
        watched.take()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert record_in(copy.deepcopy(model)) is not record
    assert watched.grid(16, 16) == (4, 4)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("make", [vit, cait])
def test_recomputed_or_compiled_it_is_the_same(make: Any, compiled: bool) -> None:
    torch.manual_seed(0)
    model = make(depth=2).train()
    x, expected = images(model), row_of(model, images(model))
    watched, begin = watch_class_row(model), training_pass(model)
    tested = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    model.set_grad_checkpointing(not compiled)
    with begin():
        logits = tested(x)
        torch.testing.assert_close(watched.take(), expected)
        logits.sum().backward()


def test_the_grid_is_that_of_the_images() -> None:
    model = vit(dynamic_img_size=True, patch_size=(4, 8))
    assert watch_class_row(model).grid(24, 32) == (6, 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (swin, "SwinTransformer has no class token: it averages"),
        (lambda: vit(class_token=False, global_pool="avg"), r"no class token \(class_token=false\)"),
        (lambda: vit(global_pool="avg"), r"does not answer by its class token \(global_pool=avg\)"),
        (lambda: vit(global_pool="map"), r"does not answer by its class token \(global_pool=map\)"),
        (lambda: attach(vit(), ggem=True), r"does not answer by its class token \(ggem\)"),
        (lambda: vit(patch_drop_rate=0.5), "drops patches in training"),
        (lambda: attach(vit(), token_merging={"r": 2}), r"makes its tokens fewer \(token_merging\)"),
        (lambda: cait(global_pool="avg"), r"Cait does not answer by its class token \(global_pool=avg\)"),
        (lambda: timm.create_model("test_resnet"), "ResNet has no attention whose rows could be read"),
        (lambda: timm.create_model("test_vit", attn_layer="diff", num_heads=2), r"of a kind \(differential ViT\)"),
    ],
)
def test_refused_with_the_reason(model: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        watch_class_row(model())
