"""Models of a few thousand parameters under the names of the real ones, for tests of weights."""

from typing import Any

import torch
from torch import nn

import vitaos

TOKENS: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}
WINDOWS: dict[str, Any] = {
    "img_size": 24,
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "window_size": 3,
    "num_classes": 5,
}


def make(name: str = "deit_s12", **keywords: Any) -> nn.Module:
    """A small model in evaluation mode; keywords of ``create_model`` override."""
    base = WINDOWS if name.startswith("swin") else TOKENS
    heads = {"num_heads": 4} if name.startswith("cait") else {}
    return vitaos.create_model(name, **{**base, **heads, **keywords}).eval()


def stirred(model: nn.Module) -> nn.Module:
    """The model with noise on every parameter, so that nothing is at a value that initialization gives too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def assert_same(one: nn.Module, other: nn.Module, size: int = 16) -> None:
    """Both compute the same, bit for bit."""
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
