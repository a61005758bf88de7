"""Shaped attention: beta_h I + alpha_h A - gamma_h (1/N) 1 1^T for each head h, a path past the low-pass filter.

Source: Noci, Li, Li, He, Hofmann, Maddison, Roy, "The Shaped Transformer", NeurIPS 2023 (arXiv 2306.17759); He,
Hofmann, "Simplifying Transformer Blocks", ICLR 2024 (arXiv 2311.01906), equation 5, whose three trained scalars a head
these are. Parameters ``shaped_identity`` = beta, ``shaped_map`` = alpha, ``shaped_mean`` = gamma, (heads,) on each
attention module; options ``identity``, ``map`` and ``mean`` are where they start: 0, 1, 0, the identity. The papers
start from 1, 1, 1 with maps that are uniform at first (``zero_queries``: the query projection starts at 0), so that
every branch starts as its own values, V, and tokens are not mixed before there is a reason to.

AttnScale is the line alpha = 1 + w, gamma = w, beta = 0, centered attention alpha = gamma = 1, beta = 0, and GFSA
without its power alpha = w_1, beta = w_0, gamma = 0. Fused attention stays in use: beta V + alpha A V - gamma mean(V).
In Swin, tokens are those of the window, masked ones included.
"""

from typing import Any, Final

import torch
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.recombine import token_mean
from vitaos.techniques.record import sizes_of
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.slot_calls import Attend
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 30


def shape_map(attention: Any, attend: Attend, v_BHND: Tensor) -> Tensor:
    """Apply the shaped map to the values, in float32 at least."""
    identity, weight, mean = (
        at_least_float32(part).view(-1, 1, 1)
        for part in (attention.shaped_identity, attention.shaped_map, attention.shaped_mean)
    )
    unattended_BHND = identity * v_BHND - mean * token_mean(v_BHND, sizes_of(attention))
    return torch.addcmul(unattended_BHND, weight, at_least_float32(attend(v_BHND))).to(v_BHND.dtype)


def _fill(sites: list[Site], identity: float, map: float, mean: float, zero_queries: bool) -> None:  # noqa: A002
    for site in sites:
        attention = site.attention
        attention.shaped_identity = site.parameter(site.num_heads, identity)
        attention.shaped_map = site.parameter(site.num_heads, map)
        attention.shaped_mean = site.parameter(site.num_heads, mean)
        if zero_queries:
            _clear_queries(attention)
        fill(attention, "operators", _PRIORITY, shape_map)


@torch.no_grad()
def _clear_queries(attention: Any) -> None:
    rows = attention.qkv.out_features // 3
    attention.qkv.weight[:rows].zero_()
    if attention.qkv.bias is not None:
        attention.qkv.bias[:rows].zero_()


SHAPED_ATTENTION: Final = Technique(
    name="shaped_attention",
    summary="makes every head's map beta I + alpha A - gamma (1/N) 1 1^T, three learned scalars a head",
    fill=_fill,
    identity={"shaped_identity": 0, "shaped_map": 1, "shaped_mean": 0},
    parameters=("shaped_identity", "shaped_map", "shaped_mean"),
    options={"identity": 0.0, "map": 1.0, "mean": 0.0, "zero_queries": False},
)
