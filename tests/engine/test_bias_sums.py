"""The pass over Inductor's graphs: which sums it splits, and that they stay what they were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vitaos.engine.bias_sums import BiasSums


def of_layer(x: Tensor) -> Tensor:
    return (2 * x).view(-1, x.shape[-1]).sum(0)


def of_queries_keys_values(x: Tensor) -> Tensor:
    return torch.stack((x, -x, 3 * x), 2).view(x.shape[0] * x.shape[1], -1).sum(0, keepdim=True)


def of_positions(x: Tensor) -> Tensor:
    return (2 * x).sum(0)


def of_pixels(x: Tensor) -> Tensor:
    return (2 * x).view(x.shape[0], -1).sum(0)


@pytest.mark.parametrize(
    ("function", "sums"), [(of_layer, 2), (of_queries_keys_values, 2), (of_positions, 1), (of_pixels, 1)]
)
def test_sums_over_images_and_tokens_become_two(function: Callable[[Tensor], Tensor], sums: int) -> None:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    traced = make_fx(function, tracing_mode="fake")(x)
    BiasSums("cuda")(traced.graph)  # of another device: nothing
    assert _sums(traced) == 1
    BiasSums("cpu")(traced.graph)
    traced.graph.lint()
    traced.recompile()
    assert _sums(traced) == sums
    found = traced(x)
    torch.testing.assert_close(found, function(x))
    assert found.shape == function(x).shape


@pytest.mark.parametrize(("between", "casts"), [(torch.float32, 1), (torch.float16, 2)])
def test_a_round_trip_that_loses_nothing_is_left_out(between: torch.dtype, casts: int) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.ops.prims.convert_element_type(x, between)
        return wide.sum(1), torch.ops.prims.convert_element_type(wide, torch.bfloat16)

    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    traced = make_fx(function, tracing_mode="fake")(x)
    BiasSums("cpu")(traced.graph)
    traced.recompile()
    convert = torch.ops.prims.convert_element_type.default
    assert sum(node.target is convert for node in traced.graph.nodes) == casts
    torch.testing.assert_close(traced(x), function(x), rtol=0, atol=0)


@pytest.mark.parametrize("depends", [False, True])
def test_a_product_comes_before_the_sum_of_what_it_takes(depends: bool) -> None:
    def function(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.ops.prims.convert_element_type(x, torch.float32).sum(1)
        return total, torch.mm(x.view(-1, 6), weight + total.bfloat16().mT @ total.bfloat16() if depends else weight)

    x, weight = torch.randn(4, 5, 6).bfloat16(), torch.randn(6, 6).bfloat16()
    traced = make_fx(function, tracing_mode="fake")(x, weight)
    BiasSums("cpu")(traced.graph)
    traced.graph.lint()
    traced.recompile()
    names = [str(node.target) for node in traced.graph.nodes]
    assert (names.index("aten.mm.default") < names.index("prims.convert_element_type.default")) is not depends
    torch.testing.assert_close(traced(x, weight), function(x, weight), rtol=0, atol=0)


def _sums(traced: Any) -> int:
    return sum(node.target is torch.ops.aten.sum.dim_IntList for node in traced.graph.nodes)
