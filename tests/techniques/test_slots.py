"""The slots ``scores`` and ``tokens``, and the record of a pass, filled by hand."""

import copy
from typing import Any

import pytest
import torch
from technique_models import BACKBONES, build, images
from torch import Tensor

from vitaos.techniques.record import record_in, share_record
from vitaos.techniques.sites import fill, find_sites, open_slots


def favor_keys(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> Tensor:
    """A term of one row, the same for all queries, that a parameter on the module weighs."""
    return attention.favor * torch.arange(k_BHND.shape[-2]).to(q_BHND).view(1, 1, 1, -1)


def add_nothing(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> None:
    """A look at queries and keys."""
    attention.looked = q_BHND.shape[-2], k_BHND.shape[-2]


def drop_last(block: Any, x_BNC: Tensor) -> Tensor:
    """One token fewer."""
    kept = x_BNC.shape[1] - 1
    moved_N = torch.arange(kept + 1)
    moved_N[-1] = -1
    return block.record.reduce(x_BNC, lambda x: x[..., :kept, :], moved_N.expand(len(x_BNC), -1))


def with_term(kind: str, **keywords: Any) -> Any:
    model = build(kind, **keywords).double()
    sites = find_sites(model)
    open_slots(sites)
    for site in sites:
        site.attention.favor = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        fill(site.attention, "scores", 0, favor_keys)
        fill(site.attention, "scores", 1, add_nothing)
    return model


@pytest.mark.parametrize("masked", ["", "bool", "float", "causal"])
def test_scores_are_added_to_the_logits(masked: str) -> None:
    attention = with_term("ViT").blocks[0].attn
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, v = attention.qkv(x).reshape(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) * attention.scale + 0.3 * torch.arange(5)
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    minus_infinity = torch.zeros(5, 5).double().masked_fill(~visible, -torch.inf)
    masks: dict[str, Any] = {"bool": {"attn_mask": visible}, "float": {"attn_mask": minus_infinity}}
    keywords = masks.get(masked, {"is_causal": masked == "causal"})
    if masked:
        logits = logits.masked_fill(~visible, -torch.inf)
    expected = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 24))
    gradients = []
    for fused in (True, False):
        attention.fused_attn = fused
        found = attention(x, **keywords)
        torch.testing.assert_close(found, expected)
        gradients.append(torch.autograd.grad(found.square().sum(), attention.favor)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs() > 1e-6
    assert attention.looked == (5, 5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_scores_act_on_every_backbone_fused_or_not(kind: str) -> None:
    plain, model = build(kind).double(), with_term(kind)
    x = images(model, dtype=torch.float64)
    outputs = []
    for fused in (True, False):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        outputs.append(model(x))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert (outputs[0] - plain(x)).abs().max() > 1e-3
    for module in model.modules():
        if hasattr(module, "favor"):
            module.favor.data.zero_()
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("kind", ["ViT", "CaiT"])
def test_fewer_tokens_take_what_is_carried_along(kind: str) -> None:
    model = build(kind, "neutreno")
    sites = find_sites(model)
    record = share_record(sites, needed_by="drop_last")
    seen: list[Any] = []
    for site in sites:
        fill(site.block, "tokens", 0, drop_last)
        site.block.register_forward_hook(lambda *args: seen.append((args[2].shape[1], record.sources_BO)))
    start = 17 if kind == "ViT" else 16
    output = model(images(model))
    assert [count for count, _ in seen] == [start - 1, start - 2, start - 3]
    assert seen[1][1][0].tolist() == [*range(start - 2), -1, -1]
    assert record is record_in(model)
    assert record.carried == {}, "something of the pass is left"
    assert record.sources_BO is record.sizes_BN is None
    clone = copy.deepcopy(model)
    assert record_in(clone) is not record
    assert torch.equal(clone(images(model)), output)
    assert {id(block.record) for block in clone.blocks} == {id(record_in(clone))}


def test_a_pass_that_broke_off_leaves_no_trace_in_the_next() -> None:
    model = build("ViT", "neutreno")
    x = images(model)
    expected = model(x)
    broken = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    assert record_in(model).carried
    assert record_in(copy.deepcopy(model)).carried == {}
    broken.remove()
    assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match=r"neutreno: what the blocks hand on .* nor single blocks"):
        model.blocks[2](torch.zeros(1, 17, 24))
