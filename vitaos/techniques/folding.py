"""Re-weighed bands within the output projection: AttnScale and FeatScale without a pass over the tokens of their own.

With z (B, N, K) the heads' outputs side by side, V the values, W and b the output projection, and the bands of the map
(g = 1 + high, m = direct - high, by head) and of the branch's output (G = 1 + high, M = direct - high, by channel),
what both techniques make of the branch is

    z (G W g)^T + G b + r,    r = (1 + direct) W (m mean(V)) + M (W (g mean(z)) + b)

means over tokens: one product with folded weights, two token means and one vector an image. At 0 the folded weights are
the weights, bit for bit, and r is 0. Weights are folded in float32 and rounded once, so that autocast keeps what 1 + w
adds. Source: the identity is derived in the head of ``bands``; nothing random may sit between, so with dropout on the
projection what belongs behind it is computed directly.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.dtypes import at_least_float32, no_autocast
from vitaos.techniques.banded_product import banded_product
from vitaos.techniques.bands import Bands, MapBands, Projection, TokenBands, Weight, in_turn, wide
from vitaos.techniques.fold_function import applies, project_fused
from vitaos.techniques.recombine import token_mean
from vitaos.techniques.record import sizes_of

Entries = tuple[tuple[int, Any], ...]


def bands_of_map(attention: Any) -> tuple[Entries, Bands | None]:
    """Operators that are computed on the values, and the bands of those that come after them, if they can fold."""
    operators: Entries = attention.operators
    if not _projection_folds(attention) or not _nothing_before_projection(attention):
        return operators, None
    first = len(operators)
    while first > 0 and isinstance(operators[first - 1][1], MapBands):
        first -= 1
    bands: Bands | None = None
    for _, operator in operators[first:]:
        here = operator.bands(attention)
        bands = here if bands is None else in_turn(bands, here)
    return operators[:first], bands


def bands_of_output(block: Any) -> tuple[Entries, Bands | None]:
    """What is computed on the branch's output, and the bands that come before that, if they can fold."""
    entries: Entries = block.post_attention
    attention = block.attn
    dropped = attention.training and attention.proj_drop.p > 0
    if not entries or not isinstance(entries[0][1], TokenBands) or dropped:
        return entries, None
    if not _projection_folds(attention) or _is_watched(attention) or _is_watched(attention.proj_drop):
        return entries, None
    return entries[1:], entries[0][1].bands(block)


def bands_of_windows(block: Any, size: tuple[int, ...]) -> tuple[Entries, Bands | None]:
    """As :func:`bands_of_output`, where attention has the tokens of a map (height, width) in windows.

    Their order is of no consequence to a mean over all; padding, which windows then hold as well, is.
    """
    entries: Entries = block.post_attention
    padded = any(side % window for side, window in zip(size, block.window_size, strict=True))
    return (entries, None) if padded else bands_of_output(block)


def _projection_folds(attention: Any) -> bool:
    """Whether the projection is nothing but its weights: no other class, no hook that would miss its call."""
    return type(attention.proj) is nn.Linear and not _is_watched(attention.proj)


def _nothing_before_projection(attention: Any) -> bool:
    norms = (getattr(attention, name, None) for name in ("norm", "sub_norm"))
    normed = any(not isinstance(norm, nn.Identity | None) for norm in norms)
    return not (normed or attention.heads or getattr(attention, "gate", None))


def _is_watched(module: nn.Module) -> bool:
    """Whether someone sees what goes in or comes out."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def project(attention: Any, z_BNK: Tensor, v_BHND: Tensor, inner: Bands | None, outer: Bands | None) -> Tensor:
    """The output projection with bands folded in.

    Args:
        attention: the module whose ``proj`` it is.
        z_BNK: what the heads give, side by side.
        v_BHND: the values.
        inner: bands of the map, by head.
        outer: bands of the output, by channel.
    """
    if inner is None and outer is None:
        projected: Tensor = attention.proj(z_BNK)
        return projected
    projection = Projection(attention.proj.weight, attention.proj.bias, inner, outer)
    device = z_BNK.device.type
    mixed = device != "meta" and torch.is_autocast_enabled(device)  # torch knows no autocast of shapes alone
    dtype = torch.get_autocast_dtype(device) if mixed else projection.weight.dtype
    sizes_BN = sizes_of(attention)
    if sizes_BN is None and applies(z_BNK, projection):
        return project_fused(z_BNK, v_BHND, projection, dtype)
    if not mixed:
        return fold_and_project(z_BNK, v_BHND, projection, dtype, sizes_BN)
    with torch.autocast(device, enabled=False):
        return fold_and_project(z_BNK.to(dtype), v_BHND, projection, dtype, sizes_BN)


def project_windows(
    attention: Any, z_BNK: Tensor, v_BHND: Tensor, inner: Bands | None, of_map: tuple[int, Bands]
) -> Tensor:
    """:func:`project` for tokens in windows, B = images x windows; ``of_map``: images, and bands over all their tokens.

    With all windows of an image in a row, that is :func:`project`, but for the inner bands, whose mean of the values is
    the window's own: G W (m (mean of the window - mean of the image)) is added to its tokens.
    """
    images, outer = of_map
    B, N, K = z_BNK.shape
    v_IHMD = v_BHND.transpose(1, 2).reshape(images, -1, *v_BHND.shape[1::2]).transpose(1, 2)
    y_BNC = project(attention, z_BNK.reshape(images, -1, K), v_IHMD, inner, outer).view(B, N, -1)
    if inner is None:
        return y_BNC
    with no_autocast(z_BNK.device.type):
        mean_IWK = token_mean(v_BHND).reshape(images, -1, K)
        own_BK = (mean_IWK - mean_IWK.mean(1, keepdim=True)).flatten(0, 1)
        high, direct = (_by_channel(part, v_BHND.shape[-1]) for part in inner)
        vector_BC = F.linear((direct - high) * own_BK, at_least_float32(attention.proj.weight)) * (1 + wide(outer.high))
        return y_BNC + vector_BC.to(y_BNC.dtype).unsqueeze(1)


def fold_and_project(
    z_BNK: Tensor, v_BHND: Tensor, projection: Projection, dtype: torch.dtype, sizes_BN: Tensor | None = None
) -> Tensor:
    """The same in torch's operations, differentiated by autograd; z and the result are of type ``dtype``.

    ``sizes_BN``: how many tokens each token stands for in the means, where some were merged.
    """
    weight, bias, inner, outer = projection
    weight, bias = at_least_float32(weight), None if bias is None else at_least_float32(bias)
    folded, folded_bias = weight, bias
    gain_K: Weight = 1.0
    vector_BC: Weight = 0.0
    if inner is not None:
        high, direct = (_by_channel(part, v_BHND.shape[-1]) for part in inner)
        gain_K = 1 + high
        folded = folded * gain_K
        vector_BC = F.linear(
            (direct - high) * token_mean(v_BHND, sizes_BN).flatten(1), weight
        )  # what the map's own DC brings
    if outer is not None:
        high, direct = (wide(part) for part in outer)
        in_one_pass = sizes_BN is None and _compiles_training()  # over the gradient, one less
        if in_one_pass and isinstance(high, Tensor) and isinstance(direct, Tensor):
            vector_BC = (1 + direct) * (vector_BC + (0.0 if bias is None else bias))
            return banded_product(z_BNK, folded, 1 + high, direct - high, vector_BC.expand(len(z_BNK), -1))
        gain_C = 1 + high
        folded = folded * (gain_C.unsqueeze(1) if isinstance(gain_C, Tensor) else gain_C)
        folded_bias = None if folded_bias is None else folded_bias * gain_C
        mean_BC = F.linear(gain_K * token_mean(z_BNK, sizes_BN).squeeze(1), weight, bias)
        vector_BC = (1 + direct) * vector_BC + (direct - high) * mean_BC
    assert isinstance(vector_BC, Tensor)
    if folded_bias is not None and dtype.itemsize < 4 and torch.compiler.is_compiling():
        # The vector's gradient, a sum over each image's tokens, holds the bias' too: compiled, one pass for both.
        vector_BC, folded_bias = vector_BC + folded_bias, None
    y_BNC = F.linear(z_BNK, folded.to(dtype), None if folded_bias is None else folded_bias.to(dtype))
    return (y_BNC + vector_BC.unsqueeze(1)).to(dtype)


def _compiles_training() -> bool:
    """Whether there will be a gradient of what is compiled now."""
    # Not is_exporting(), which PyTorch 2.11 takes for true in all that Dynamo traces; torch.export goes without Dynamo.
    return torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled()


def _by_channel(weight: Weight, head_dim: int) -> Weight:
    """(heads,) -> (heads x head_dim,)."""
    if not isinstance(weight, Tensor):
        return weight
    return at_least_float32(weight).unsqueeze(1).expand(-1, head_dim).flatten()
