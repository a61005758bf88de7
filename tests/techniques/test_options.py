"""Options of techniques against their equations, written out with the map."""

from types import SimpleNamespace

import pytest
import torch
from technique_models import build, images, vit
from torch import Tensor

from vitaos.techniques import attach
from vitaos.techniques.contranorm import repel_tokens
from vitaos.techniques.gfsa import filter_values
from vitaos.techniques.laplacian_heads import subtract_attended
from vitaos.weights.load import load_weights


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_contranorm_subtracts_what_similar_tokens_share(normalize: bool, temperature: float) -> None:
    x = tokens(2, 5, 8)
    compared = x / x.norm(dim=-1, keepdim=True) if normalize else x
    expected = x - 0.2 * (compared @ compared.transpose(1, 2) / temperature).softmax(-1) @ x
    found = repel_tokens(None, x, scale=0.2, temperature=temperature, normalize=normalize)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("order", [2, 3, 7])
def test_gfsa_is_a_polynomial_of_the_map(order: int) -> None:
    maps, values = tokens(1, 2, 6, 6).softmax(-1), tokens(1, 2, 6, 3)
    identity, linear, power = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.3, -1], [1.2, 0.5], [0.7, -0.4]))
    attention = SimpleNamespace(gfsa_identity=identity, gfsa_linear=linear, gfsa_power=power)
    expected = torch.stack(
        [
            identity[h] * values[:, h]
            + linear[h] * maps[:, h] @ values[:, h]
            + power[h] * (maps[:, h] + (order - 1) * (maps[:, h] @ maps[:, h] - maps[:, h])) @ values[:, h]
            for h in range(2)
        ],
        dim=1,
    )
    found = filter_values(attention, lambda v_BHND: maps @ v_BHND, values, order=order)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_shaped_attention_contains_attnscale_centering_and_linear_gfsa() -> None:
    w = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
    for other, parameters, identity, weight, mean in (
        ("attnscale", {"attn_scale": w}, 0 * w, 1 + w, w),
        ("centered_attention", {}, 0 * w, 1 + 0 * w, 1 + 0 * w),
        ("gfsa", {"gfsa_identity": w, "gfsa_linear": 1 - w}, w, 1 - w, 0 * w),
    ):
        expected, found = build("ViT", other).double(), build("ViT", "shaped_attention").double()
        values = parameters | {"shaped_identity": identity, "shaped_map": weight, "shaped_mean": mean}
        with torch.no_grad():
            for model in (expected, found):
                for name, parameter in model.named_parameters():
                    if name.rpartition(".")[2] in values:
                        parameter.copy_(values[name.rpartition(".")[2]])
        x = images(found, dtype=torch.float64)
        torch.testing.assert_close(found(x), expected(x), rtol=0, atol=1e-12, msg=other)


def test_shaped_attention_can_start_from_its_own_values() -> None:
    """With queries at 0 the map is uniform, so that 1, 1, 1 gives the branch its own values: no token is mixed."""
    model = attach(vit(), shaped_attention={"identity": 1, "map": 1, "mean": 1, "zero_queries": True}).eval()
    attention = model.blocks[0].attn
    x = torch.randn(2, 17, 24)
    values = attention.qkv(x).chunk(3, dim=-1)[2]
    torch.testing.assert_close(attention(x), attention.proj(values))
    attention(x).square().sum().backward()
    assert attention.qkv.weight.grad[:24].any(), "the queries can leave 0"


def test_featscale_starts_where_it_is_told_and_a_checkpoint_without_it_says_so() -> None:
    """With s = -1 the branch has no direct current: its mean over tokens is 0, whatever the input."""
    plain, model = build("ViT"), attach(build("ViT"), featscale={"dc": -1})
    means = []
    model.blocks[0].drop_path1.register_forward_hook(lambda _module, _input, output: means.append(output.mean(1)))
    report = load_weights(model, plain.state_dict())
    model.eval()(images(model))
    torch.testing.assert_close(means[0], torch.zeros_like(means[0]), rtol=0, atol=1e-6)
    assert report.started_as_identity == []
    assert report.moved == [name for name in report.missing if name.endswith("feat_scale_dc")]
    assert "which are not the identity" in str(report)


def test_value_residual_is_fixed_sparse_or_the_identity_where_asked() -> None:
    plain = build("ViT")
    x = images(plain)
    same = attach(build("ViT"), value_residual={"first": 0, "own": 1})
    torch.testing.assert_close(same(x), plain(x), rtol=0, atol=0)
    fixed = attach(build("ViT"), value_residual={"learned": False, "from_block": 2})
    assert not any("value_residual" in name for name, _ in fixed.named_parameters())
    assert sorted(name for name in fixed.state_dict() if "value_residual" in name) == [
        "blocks.2.attn.value_residual_first",
        "blocks.2.attn.value_residual_own",
    ]
    learned = attach(build("ViT"), value_residual=True)
    with torch.no_grad():
        learned.blocks[1].attn.value_residual_first.zero_()
        learned.blocks[1].attn.value_residual_own.fill_(1)
    torch.testing.assert_close(fixed(x), learned(x), rtol=0, atol=0)


@pytest.mark.parametrize(("fraction", "heads"), [(0.25, 1), (1.0, 4)])
def test_laplacian_heads_are_the_last_ones(fraction: float, heads: int) -> None:
    maps, values = tokens(1, 4, 6, 6).softmax(-1), tokens(1, 4, 6, 3)
    low, high = maps @ values, (torch.eye(6, dtype=maps.dtype) - maps) @ values
    found = subtract_attended(None, lambda v_BHND: maps @ v_BHND, values, heads=round(fraction * 4))
    torch.testing.assert_close(found, torch.cat([low[:, : 4 - heads], high[:, 4 - heads :]], dim=1))


def test_a_gate_of_every_channel_is_timms_times_two() -> None:
    gated, timms = attach(build("ViT"), gated_attention={"elementwise": True}), build("ViT")
    for ours, theirs in zip(gated.blocks, timms.blocks, strict=True):
        with torch.no_grad():
            ours.attn.output_gate.weight.copy_(torch.linspace(-1, 1, 24 * 24).view(24, 24))
            ours.attn.output_gate.bias.fill_(0.3)
            theirs.attn.proj.weight.mul_(2)
        theirs.attn.gate = ours.attn.output_gate
    x = images(gated)
    torch.testing.assert_close(gated(x), timms(x))


@pytest.mark.parametrize("grid", [(3, 5), (4, 6), (2, 1)])
def test_freqscale_transforms_any_grid(grid: tuple[int, int]) -> None:
    """Products with its matrices are the transform of torch.fft, for even and odd rows and columns."""
    rows, columns = grid
    model = build("ViT", "freqscale", img_size=(4 * rows, 4 * columns), depth=1).double()
    gains = model.blocks[0].freqscale_mlp
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, rows, columns, 24, generator=generator, dtype=torch.float64)
    w = torch.randn(2, rows, columns // 2 + 1, 24, generator=generator, dtype=torch.float64)
    expected = torch.fft.irfft2(torch.fft.rfft2(y, dim=(1, 2)) * w, s=grid, dim=(1, 2))
    torch.testing.assert_close(gains._reweigh(y, w), expected, rtol=0, atol=1e-12)
    assert model(images(model, dtype=torch.float64)).isfinite().all()
