"""Dominant eigenvalues against the dense matrix, and length distortion of networks whose stretching is known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.small_backbones import FAMILIES, sharpen, small_vit, with_techniques
from vitaos.analysis.capture import find_layout, watch
from vitaos.analysis.propagation import dominant_eigenvalue, dominant_modes, length_distortion, propagation


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def dense(attention: Any, map_HMN: Tensor, gain: Tensor, scale: Tensor | None) -> Tensor:
    """I + sum over heads of A_h (x) (W_V,h W_O,h), by Kronecker products."""
    heads, width = attention.num_heads, attention.proj.out_features
    tokens = map_HMN.shape[-1]
    values = attention.qkv.weight.detach().double().chunk(3)[2].chunk(heads)
    outputs = (gain.double().unsqueeze(1) * attention.proj.weight.detach().double()).chunk(heads, dim=1)
    total = torch.eye(tokens * width, dtype=torch.float64)
    for head in range(heads):
        weights = map_HMN[head].double()
        if scale is not None:
            uniform = torch.full_like(weights, 1 / tokens)
            weights = uniform + (1 + scale[head].double()) * (weights - uniform)
        total += torch.kron(weights, (outputs[head] @ values[head]).contiguous())
    return total


@pytest.mark.parametrize("family", ["vit", "cait", "swin"])
def test_the_dominant_eigenvalue_is_that_of_the_kronecker_product(family: str) -> None:
    torch.manual_seed(0)
    model = with_techniques(sharpen(FAMILIES[family]())).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                parameter.uniform_(0.5, 1.5)
            if "proj.weight" in name:
                parameter.mul_(3)
    layer = find_layout(model).attention[0]
    found: list[Tensor] = []
    with watch(model, on_attention=lambda index, maps: found.append(maps.clone()) if index == 0 else None) as run:
        run(images())
    attention, block = model.get_submodule(layer.name), model.get_submodule(layer.block)
    gain = block.gamma_1.detach() if family == "cait" else torch.ones(attention.proj.out_features)
    largest = []
    for map_HMN in found[0]:
        eigenvalues = torch.linalg.eigvals(dense(attention, map_HMN, gain, attention.attn_scale.detach()))
        largest.append(float(eigenvalues.abs().max()))
    per_image = torch.tensor(largest).view(2, -1).amax(1)
    mode = dominant_modes(model, images())[0]
    assert (mode.module, mode.block) == (layer.name, 1)
    assert mode.modulus == pytest.approx(float(per_image.mean()), rel=5e-3)


def test_a_uniform_map_is_dominated_by_the_token_mean_and_a_repelling_one_is_not() -> None:
    """I + c (1/N) 1 1^T (x) I: eigenvalue 1 + c on flat tokens, 1 on all others."""

    def smoothing(gain: float) -> Any:
        return lambda x_BNC: x_BNC + gain * x_BNC.mean(1, keepdim=True)

    value, share = dominant_eigenvalue(smoothing(0.5), (2, 6, 3))
    torch.testing.assert_close(value.real, torch.full((2,), 1.5, dtype=torch.float64))
    torch.testing.assert_close(share, torch.ones(2, dtype=torch.float64))
    value, share = dominant_eigenvalue(smoothing(-0.5), (2, 6, 3))
    torch.testing.assert_close(value.real, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(share, torch.zeros(2, dtype=torch.float64))


def test_a_rotation_has_an_angle() -> None:
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]], dtype=torch.float64)
    value, _ = dominant_eigenvalue(lambda x_BNC: 2 * x_BNC @ turn, (1, 1, 2))
    assert float(value.abs()) == pytest.approx(2)
    assert abs(float(value.angle())) == pytest.approx(0.3)


def test_length_distortion_is_that_of_a_linear_embedding_and_of_scaled_blocks() -> None:
    """An orthogonal patch embedding keeps lengths; blocks whose branches are 0 keep what they are given."""
    model = small_vit(pos_embed="none", embed_dim=192, class_token=False, global_pool="avg", num_heads=3)
    with torch.no_grad():
        weight = model.patch_embed.proj.weight
        weight.copy_(3 * torch.linalg.qr(torch.randn(192, 192))[0].view_as(weight))
        for block in model.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
    found = length_distortion(model, images())
    assert found == pytest.approx([3.0] * 4, rel=1e-5)


def test_nothing_of_the_model_is_left_changed() -> None:
    model: nn.Module = with_techniques(sharpen(small_vit())).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = propagation(model, images())
    assert len(found.modes) == 3
    assert len(found.length_distortion) == 4
    assert all(value > 0 for value in found.length_distortion)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32
