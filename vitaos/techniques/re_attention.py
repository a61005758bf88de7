"""Re-attention: Norm(Theta^T A) V, attention maps mixed across heads after the softmax and normalized per head.

Source: Zhou, Kang, Jin, Yang, Lian, Jiang, Hou, Feng, "DeepViT: Towards Deeper Vision Transformer", 2021, section 4;
Norm is batch normalization over the maps, one channel for each head, as in the authors' code. Parameters
``re_attention_heads`` (heads, heads) = Theta, starting at I, and those of the batch norm ``re_attention_norm``, on each
attention module.

Theta = I is ours; the authors' code starts from a random 1 x 1 convolution. The running statistics of the norm are part
of the state: the same on all ranks, untouched by a step that is left out (``vitaos.engine.statistics``).

Not the identity at the start: the normalized map has mean 0 and variance 1 over the batch. This technique cannot do
without the N x N map, so fused attention is off, and memory and time per step rise.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from vitaos.dtypes import at_least_float32
from vitaos.techniques.recomputation import refuse_recomputation
from vitaos.techniques.record import sizes_of
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 10


def mix_maps(attention: Any, map_BHNM: Tensor) -> Tensor:
    """Mix the maps of all heads, then normalize each mixed map.

    Raises:
        ValueError: gradient checkpointing runs it again, which would count a batch twice in the running statistics.
    """
    if attention.re_attention_norm.training:
        refuse_recomputation("re_attention")
    mixed_BHNM = torch.einsum("gh,bgnm->bhnm", attention.re_attention_heads.to(map_BHNM.dtype), map_BHNM)
    sizes_BN = sizes_of(attention)
    if sizes_BN is not None:
        return _norm_by_size(attention.re_attention_norm, mixed_BHNM, sizes_BN)
    normed_BHNM: Tensor = attention.re_attention_norm(mixed_BHNM)
    return normed_BHNM


def _norm_by_size(norm: nn.BatchNorm2d, map_BHNM: Tensor, sizes_BN: Tensor) -> Tensor:
    """The norm of the map that the tokens had before they were merged, and of it the columns added up again.

    A column of a merged map is the sum of as many equal columns as the token's size says, a row stands for as many.
    """
    keys_B11M = sizes_BN[:, None, None, :]
    weights_B1NM = sizes_BN[:, None, :, None] * keys_B11M
    one_BHNM = at_least_float32(map_BHNM) / keys_B11M
    mean_H, variance_H = norm.running_mean, norm.running_var
    if norm.training:
        count = weights_B1NM.sum()
        mean_H = (one_BHNM * weights_B1NM).sum((0, 2, 3)) / count
        variance_H = ((one_BHNM - mean_H.view(-1, 1, 1)).square() * weights_B1NM).sum((0, 2, 3)) / count
        _follow(norm, mean_H.detach(), (variance_H * count / (count - 1)).detach())
    assert mean_H is not None
    assert variance_H is not None
    gain_H = norm.weight * (variance_H + norm.eps).rsqrt()
    shift_H = norm.bias - mean_H * gain_H
    normed_BHNM = torch.addcmul(shift_H.view(-1, 1, 1), one_BHNM, gain_H.view(-1, 1, 1)) * keys_B11M
    return normed_BHNM.to(map_BHNM.dtype)


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean_H: Tensor, variance_H: Tensor) -> None:
    """Move the running statistics as torch's batch normalization does."""
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean_H.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(variance_H.to(norm.running_var.dtype), norm.momentum)


def _fill(sites: list[Site]) -> None:
    for site in sites:
        weight = site.attention.proj.weight
        norm = nn.BatchNorm2d(site.num_heads).to(device=weight.device, dtype=weight.dtype).train(site.block.training)
        eye = torch.eye(site.num_heads, device=weight.device, dtype=weight.dtype)
        site.attention.re_attention_heads = nn.Parameter(eye)
        site.attention.re_attention_norm = norm
        fill(site.attention, "maps", _PRIORITY, mix_maps)


_NOT_STOCHASTIC: Final = "the rows of re-attention's normalized maps do not sum to 1, as the other takes for granted"

RE_ATTENTION: Final = Technique(
    name="re_attention",
    summary="mixes the attention maps of all heads and normalizes them (needs the map: no fused attention)",
    fill=_fill,
    start="batch-normalized attention maps, heads unmixed",
    parameters=(
        "re_attention_heads",
        "re_attention_norm.weight",
        "re_attention_norm.bias",
        "re_attention_norm.running_mean",
        "re_attention_norm.running_var",
        "re_attention_norm.num_batches_tracked",
    ),
    refuses={
        "CaiT": "its talking heads mix the maps after the softmax already",
        "Swin": "batch normalization would give weight to tokens that the mask of shifted windows keeps apart",
    },
    conflicts={"gfsa": _NOT_STOCHASTIC, "centered_attention": _NOT_STOCHASTIC},
)
