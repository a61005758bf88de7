"""The pass over PyTorch's graphs: what is computed for the class token alone, and that results and gradients stay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

from vitaos.engine.asked_tokens import AskedTokens

TOKENS = 5


class Tail(nn.Module):
    """What follows the last attention: projection, residual sum with stochastic depth, norm, MLP, norm."""

    def __init__(self, choose: Callable[[Tensor], Any], rate: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(TOKENS, TOKENS, dtype=torch.float64) for _ in range(2)])
        self.norm = nn.LayerNorm(TOKENS, dtype=torch.float64)
        self.rate, self.choose = rate, choose

    def forward(self, x: Tensor, keep: Tensor) -> Any:
        x = x + self.layers[0](x.transpose(1, 2)) * keep
        x = x + F.dropout(F.gelu(self.layers[1](self.norm(x))), self.rate, self.training)
        return self.choose(self.norm(x))


def _narrowed(model: nn.Module) -> tuple[Any, Callable[[], int]]:
    """The model behind the pass, and how many of its linear layers then see all tokens."""
    graphs: list[fx.GraphModule] = []

    def backend(module: fx.GraphModule, _: Any) -> fx.GraphModule:
        AskedTokens()(module.graph)
        module.graph.lint()
        module.recompile()
        graphs.append(module)
        return module

    def wide() -> int:
        linear = [node for node in graphs[-1].graph.nodes if node.target is F.linear]
        shapes = [node.meta["example_value"].shape for node in linear]
        return sum(len(shape) == 3 and shape[1] > 1 for shape in shapes)

    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True), wide


@pytest.mark.parametrize(
    ("choose", "rate", "wide"),
    [
        (lambda x: x[:, 0], 0.0, 0),
        (lambda x: x[:, -1], 0.0, 0),
        (lambda x: x[:, 0], 0.5, 2),  # dropout draws for each token: what comes before it stays
        (lambda x: (x[:, 0], x.mean(1)), 0.0, 2),  # somebody looks at all of them
        (lambda x: x[:, 0] + x[:, 1], 0.0, 2),
        (lambda x: x[0], 0.0, 2),
    ],
)
def test_what_one_token_is_asked_for_is_computed_for_it_alone(
    choose: Callable[[Tensor], Any], rate: float, wide: int
) -> None:
    torch.manual_seed(0)
    model = Tail(choose, rate)
    x, keep = torch.randn(2, TOKENS, TOKENS, dtype=torch.float64), torch.tensor([[[0.0]], [[2.0]]]).double()
    narrowed, count = _narrowed(model)
    if rate:
        narrowed(x, keep)
    else:
        _assert_same(model, narrowed, x, keep)
    assert count() == wide


def test_a_model_gives_the_same_and_computes_less() -> None:
    """A whole ViT of timm: of 4 linear layers a block, the projection and the MLP of the last see one token."""
    torch.manual_seed(0)
    model = VisionTransformer(32, 16, num_classes=4, embed_dim=8, depth=2, num_heads=2, drop_path_rate=0.5).double()
    narrowed, wide = _narrowed(model)
    _assert_same(model, narrowed, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert wide() == 8 - 3


def _assert_same(model: nn.Module, narrowed: Any, *inputs: Tensor) -> None:
    gradients = []
    results = []
    for function in (model, narrowed):
        torch.manual_seed(1)  # stochastic depth draws for images, not for tokens
        result = function(*inputs)
        parts = result if isinstance(result, tuple) else (result,)
        gradients.append(torch.autograd.grad(sum(part.square().sum() for part in parts), list(model.parameters())))
        results.append(parts)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
