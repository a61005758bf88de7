"""The product with bands: values and every gradient against the formula step by step, and who uses it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

import vitaos
from vitaos.engine.asked_tokens import AskedTokens
from vitaos.techniques.banded_product import banded_product

NAMES = ("z", "weight", "gain", "low", "vector")


def formula(z: Tensor, weight: Tensor, gain: Tensor, low: Tensor, vector: Tensor) -> Tensor:
    wide = z.to(weight.dtype)
    y = F.linear(wide, weight)
    return (gain * y + low * y.mean(1, keepdim=True) + vector.unsqueeze(1)).to(z.dtype)


def inputs(dtype: torch.dtype) -> list[Tensor]:
    """Tokens of a type and the rest at least in float32; a gain is 0, where nothing may be divided by it."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 7, 10), (6, 10), (6,), (6,), (3, 6)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    made[2][1] = 0
    wide = torch.promote_types(dtype, torch.float32)
    return [one.to(wide if place else dtype).requires_grad_() for place, one in enumerate(made)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 3e-2)]
)
def test_the_product_is_the_formula(dtype: torch.dtype, tolerance: float) -> None:
    found, expected = inputs(dtype), inputs(torch.promote_types(dtype, torch.float32))
    seed = torch.randn(3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected[0].copy_(found[0])  # as the type has rounded it
    y, wide = banded_product(*found), formula(*expected)
    y.backward(seed)
    wide.backward(seed.to(wide.dtype))
    pairs = {"y": (y, wide)} | {n: (a.grad, b.grad) for n, a, b in zip(NAMES, found, expected, strict=True)}
    for name, (one, other) in pairs.items():
        assert one is not None
        assert other is not None
        error = (one - other).abs().max() / other.abs().max()
        assert error < tolerance, name


def test_one_token_is_a_row_of_all_of_them() -> None:
    given = inputs(torch.float64)
    one = torch.ops.vitaos.banded_product(*given, token=2)
    torch.testing.assert_close(one, banded_product(*given)[:, 2:3])
    gradients = [torch.autograd.grad(y.square().sum(), given) for y in (one, banded_product(*given)[:, 2:3])]
    torch.testing.assert_close(*gradients)


def test_compiled_training_uses_it_and_the_last_block_for_the_class_token_alone() -> None:
    """Loss and gradients of a model with both techniques are the eager ones; evaluation has none of it."""
    torch.manual_seed(0)
    model: nn.Module = VisionTransformer(32, 16, num_classes=4, embed_dim=8, depth=2, num_heads=2)
    model = vitaos.attach(model, attnscale=True, featscale=True).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    graphs: list[fx.GraphModule] = []

    def backend(module: fx.GraphModule, given: Any) -> Any:
        AskedTokens()(module.graph)
        module.recompile()
        graphs.append(module)
        return torch._dynamo.lookup_backend("aot_eager")(module, given)

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    losses = [one(x).square().sum() for one in (model, compiled)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, list(model.parameters())) for loss in losses))
    operator = torch.ops.vitaos.banded_product.default
    assert [node.kwargs for node in graphs[-1].graph.nodes if node.target is operator] == [{}, {"token": 0}]
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    assert all(node.target is not operator for node in graphs[-1].graph.nodes)
