"""Attention diversification loss (ADL): every query's map is to differ from the map that all queries have in common.

Source: Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023 (arXiv 2303.11126), as in
the authors' code: with M the mean of the maps over heads and c its mean over queries, entries of both at or below the
threshold ``tau`` / N (2 / N) are set to 0, and mean over queries of cos(c, M_i), mean over blocks, is added with
``weight`` 1. No parameters; the model's output does not change.

ViTs keep fused attention: the map is formed beside it, in training alone, from the same queries and keys (masks that a
caller gives, and sizes of merged tokens, are not in it). CaiT's is the map after its second mix of heads.
"""

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.techniques.losses import add_loss, collects_losses
from vitaos.techniques.record import share_record
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_NAME: Final = "attention_diversity_loss"
_PRIORITY: Final = 90


def from_scores(attention: Any, q_BHND: Tensor, k_BHND: Tensor, *, weight: float, tau: float) -> None:
    """A ViT: look at queries and keys, add nothing to the scores."""
    if collects_losses(attention):
        scores_BHNM = (q_BHND * attention.scale) @ k_BHND.transpose(-2, -1)
        add_loss(attention, _NAME, weight * common_attention(scores_BHNM.softmax(dim=-1), tau))


def from_map(attention: Any, map_BHNM: Tensor, *, weight: float, tau: float) -> Tensor:
    """A CaiT: look at the map that is there anyway, and leave it as it is."""
    if collects_losses(attention):
        add_loss(attention, _NAME, weight * common_attention(map_BHNM, tau))
    return map_BHNM


def common_attention(map_BHNM: Tensor, tau: float) -> Tensor:
    """Mean over images and queries of the cosine between a query's map and the mean map, small entries left out."""
    mean_BNM = map_BHNM.float().mean(1) if map_BHNM.dtype != torch.float64 else map_BHNM.mean(1)
    common_B1M = mean_BNM.mean(1, keepdim=True)
    least = tau / map_BHNM.shape[-1]
    mean_BNM, common_B1M = (torch.where(part > least, part, 0.0) for part in (mean_BNM, common_B1M))
    return F.cosine_similarity(common_B1M, mean_BNM, dim=-1).mean()


def _check(_: list[Site], weight: float, tau: float) -> None:
    if weight < 0 or tau < 0:
        raise ValueError(f"attention_diversity_loss: weight={weight} and tau={tau} are 0 or more.")


def _fill(sites: list[Site], weight: float, tau: float) -> None:
    share_record(sites)
    for site in sites:
        slot, look = ("maps", from_map) if site.kind.name == "CaiT" else ("scores", from_scores)
        fill(site.attention, slot, _PRIORITY, partial(look, weight=weight / len(sites), tau=tau))


ATTENTION_DIVERSITY_LOSS: Final = Technique(
    name=_NAME,
    summary="adds the cosine between every query's attention and the mean attention to the training loss",
    fill=_fill,
    check=_check,
    losses=(_NAME,),
    options={"weight": 1.0, "tau": 2.0},
    refuses={"Swin": "position bias and shift masks make its maps, which fused window attention does not show"},
)
