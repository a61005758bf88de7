"""The Triton kernels of the folded projection on the CPU: run by ``test_folding.py`` with TRITON_INTERPRET=1."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vitaos.techniques import fold_function, folding
from vitaos.techniques.band_kernel import band
from vitaos.techniques.bands import Bands, Projection


@pytest.mark.parametrize(
    ("part", "bias"), [("both", True), ("both", False), ("map", True), ("map, centered", False), ("output", True)]
)
def test_the_kernels_are_the_formula(part: str, bias: bool) -> None:
    """Output and every gradient of the fused function, against autograd through torch's operations."""
    torch.manual_seed(0)
    heads, head_dim, channels, tokens, batch = 3, 10, 40, 7, 5
    leaves = {
        "z": torch.randn(batch, tokens, heads * head_dim),
        "v": torch.randn(batch, heads, tokens, head_dim),
        "weight": torch.randn(channels, heads * head_dim),
        "bias": torch.randn(channels),
        "of_heads": torch.randn(heads),
        "high": torch.randn(channels),
        "low": torch.randn(channels),
    }
    if not bias:
        del leaves["bias"]
    seed = torch.randn(batch, tokens, channels)
    centre = -1.0 if part == "map, centered" else 0.0

    def run(function: Any) -> list[Tensor]:
        own = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        inner = None if part == "output" else Bands(own["of_heads"], centre)
        outer = Bands(own["high"], own["low"]) if part in {"both", "output"} else None
        y = function(own["z"], own["v"], Projection(own["weight"], own.get("bias"), inner, outer), torch.float32)
        y.backward(seed)
        return [y, *(leaf.grad for leaf in own.values() if leaf.grad is not None)]

    found, expected = run(fold_function.project_fused), run(folding.fold_and_project)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_fused_function_can_be_differentiated_twice() -> None:
    torch.manual_seed(1)

    def penalty(function: Any) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        z, v = torch.randn(2, 4, 6, generator=generator), torch.randn(2, 2, 4, 3, generator=generator)
        weight, w = torch.randn(5, 6, generator=generator).requires_grad_(), torch.zeros(2).requires_grad_()
        y = function(z.requires_grad_(), v, Projection(weight, None, Bands(w), None), torch.float32)
        (slope,) = torch.autograd.grad(y.square().sum(), z, create_graph=True)
        slope.square().sum().backward()
        assert weight.grad is not None
        return weight.grad

    torch.testing.assert_close(
        penalty(fold_function.project_fused), penalty(folding.fold_and_project), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 7, 70), torch.float32),
        ((1, 300, 33), torch.float32),
        ((1, 1100, 3), torch.float32),  # more than a program holds
        ((2, 197, 72), torch.bfloat16),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_kernel_of_bands_is_the_formula(shape: tuple[int, int, int], dtype: torch.dtype, turned: bool) -> None:
    torch.manual_seed(0)
    B, N, C = shape
    gradient = (torch.randn(B, C, N).transpose(1, 2) if turned else torch.randn(shape)).to(dtype)
    gain, low = torch.randn(2, C)
    banded, total = band(gradient, gain, low)
    wide = gradient.double()
    expected = gain * wide + low * wide.mean(1, keepdim=True)
    assert banded.dtype == dtype
    assert banded.is_contiguous()
    torch.testing.assert_close(total, wide.sum(1, keepdim=True).float(), rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(banded, expected.to(dtype), rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)
