"""Locality beyond the walk: the multiplying form against loops, tokens without a place, refusals, pooling apart."""

import pytest
import torch
from map_oracle import squared_distances
from technique_models import build, cait, images, stir, vit

from vitaos.techniques import attach


def test_a_gaussian_mixture_multiplies_queries_times_keys() -> None:
    model = attach(build("ViT", depth=1), locality={"multiply": True, "gaussians": 2}).double()
    attention = stir(model, "locality").blocks[0].attn
    x = torch.randn(2, 17, 24, dtype=torch.float64)
    q, k, v = attention.qkv(x).reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    apart = squared_distances(17)
    factor = torch.ones(3, 17, 17, dtype=torch.float64)
    for head in range(3):
        for weight, width in zip(attention.locality_weight[head], attention.locality_width[head], strict=True):
            factor[head] += weight * ((-apart / (2 * width**2)).exp() - 1)
    weights = (q @ k.transpose(-2, -1) * attention.scale * factor).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 17, 24))
    torch.testing.assert_close(attention(x), expected)
    assert (factor[:, 0] == 1).all(), "the class token has no place"
    attention(x).square().sum().backward()
    assert attention.locality_weight.grad.any()


@pytest.mark.parametrize("kind", ["ViT", "Swin"])
def test_both_forms_start_at_the_identity(kind: str) -> None:
    plain, x = build(kind), images(build(kind))
    for multiply in (False, True):
        model = attach(build(kind), locality={"multiply": multiply})
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)


def test_the_pooling_is_another_switch() -> None:
    pooled = build("ViT", global_pool="avg", class_token=False)
    x = images(pooled)
    local = attach(build("ViT", global_pool="avg", class_token=False), locality=True)
    torch.testing.assert_close(local(x), pooled(x))
    assert local.blocks[0].attn.locality_distances.shape == (16, 16)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="not defined on CaiT"):
        attach(cait(), locality={"multiply": True})
    with pytest.raises(ValueError, match="gaussians=0"):
        attach(vit(), locality={"gaussians": 0})
    with pytest.raises(ValueError, match="dynamic_img_size"):
        attach(vit(dynamic_img_size=True), locality=True)
    with pytest.raises(ValueError, match="lose the grid"):
        attach(vit(), locality=True, token_merging=True)
