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

from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 10


def mix_maps(attention: Any, map_BHNM: Tensor) -> Tensor:
    """Mix the maps of all heads, then normalize each mixed map."""
    mixed_BHNM = torch.einsum("gh,bgnm->bhnm", attention.re_attention_heads.to(map_BHNM.dtype), map_BHNM)
    normed_BHNM: Tensor = attention.re_attention_norm(mixed_BHNM)
    return normed_BHNM


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
