"""The tokens between a model's blocks, and what its LayerNorms give, in the number format of the products.

Under autocast the residual sum stays in float32, although it only ever receives what was rounded to bfloat16, and
LayerNorm gives float32, which the next product rounds. Kept in bfloat16 both take half the memory and half the traffic;
each residual sum is then rounded to 8 bits of mantissa. What that does to a loss is in ``docs/gpu.md``.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, LayerScale
from torch import Tensor, nn


class AutocastLayerNorm(LayerNorm):
    """timm's LayerNorm in autocast's format: sums in float32 as everywhere, input, gain and output rounded."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> the same, in autocast's format where there is one."""
        dtype = _format_at(x)
        if dtype is None:
            return super().forward(x)
        weight, bias = (None if one is None else one.to(dtype) for one in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps)


def narrow(blocks: Iterable[nn.Module]) -> None:
    """Keep the tokens of these blocks in autocast's format; without autocast nothing changes, nor do the names."""
    for block in blocks:
        block.register_forward_pre_hook(_narrow_input)
        for module in block.modules():
            if type(module) in {nn.LayerNorm, LayerNorm}:
                module.__class__ = AutocastLayerNorm
                module._fast_norm = False  # type: ignore[assignment]  # timm's own way, which nn.LayerNorm lacks
            elif isinstance(module, LayerScale):
                module.register_forward_hook(_narrow_output)


def _format_at(x: Tensor) -> torch.dtype | None:
    device = x.device.type
    if device == "meta" or not x.is_floating_point() or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _narrow_input(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = _format_at(arguments[0])
    return arguments if dtype is None else (arguments[0].to(dtype), *arguments[1:])


def _narrow_output(module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> Tensor:
    dtype = _format_at(result)
    return result if dtype is None else result.to(dtype)
