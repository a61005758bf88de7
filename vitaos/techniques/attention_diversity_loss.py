"""Attention diversification loss (ADL): every query's map is to differ from the map that all queries have in common.

Source: Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023 (arXiv 2303.11126), as in
the authors' code: with M the mean of the maps over heads and c its mean over queries, entries of both at or below the
threshold ``tau`` / N (2 / N) are set to 0, and mean over queries of cos(c, M_i), mean over blocks, is added with
``weight`` 1. No parameters; the model's output does not change.

ViTs keep fused attention: the map is formed beside it, in training alone, from the same queries and keys (masks that a
caller gives are not in it; merged tokens count as those that they stand for). CaiT's is the map after its second mix of
heads.
"""

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.techniques.losses import add_loss, collects_losses
from vitaos.techniques.record import log_sizes, share_record, sizes_of
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_NAME: Final = "attention_diversity_loss"
_PRIORITY: Final = 90


def from_scores(attention: Any, q_BHND: Tensor, k_BHND: Tensor, *, weight: float, tau: float) -> None:
    """A ViT: look at queries and keys, add nothing to the scores."""
    if collects_losses(attention):
        scores_BHNM = (q_BHND * attention.scale) @ k_BHND.transpose(-2, -1)
        sizes = log_sizes(attention, scores_BHNM)
        map_BHNM = (scores_BHNM if sizes is None else scores_BHNM + sizes).softmax(dim=-1)
        add_loss(attention, _NAME, weight * common_attention(map_BHNM, tau, sizes_of(attention)))


def from_map(attention: Any, map_BHNM: Tensor, *, weight: float, tau: float) -> Tensor:
    """A CaiT: look at the map that is there anyway, and leave it as it is."""
    if collects_losses(attention):
        add_loss(attention, _NAME, weight * common_attention(map_BHNM, tau))
    return map_BHNM


def common_attention(map_BHNM: Tensor, tau: float, sizes_BN: Tensor | None = None) -> Tensor:
    """Mean over images and queries of the cosine between a query's map and the mean map, small entries left out.

    Of merged tokens (``sizes_BN``) a column is the sum of as many equal ones, and a row stands for as many.
    """
    mean_BNM = map_BHNM.float().mean(1) if map_BHNM.dtype != torch.float64 else map_BHNM.mean(1)
    if sizes_BN is not None:
        return _by_size(mean_BNM, tau, sizes_BN.to(mean_BNM.dtype))
    common_B1M = mean_BNM.mean(1, keepdim=True)
    least = tau / map_BHNM.shape[-1]
    mean_BNM, common_B1M = (torch.where(part > least, part, 0.0) for part in (mean_BNM, common_B1M))
    return F.cosine_similarity(common_B1M, mean_BNM, dim=-1).mean()


def _by_size(mean_BNM: Tensor, tau: float, sizes_BN: Tensor) -> Tensor:
    count_B1 = sizes_BN.sum(1, keepdim=True)
    shares_BN = sizes_BN / count_B1
    one_BNM = mean_BNM / sizes_BN.unsqueeze(1)
    common_B1M = (one_BNM * shares_BN.unsqueeze(2)).sum(1, keepdim=True)
    least_B11 = (tau / count_B1).unsqueeze(2)
    weigh_B1M = sizes_BN.sqrt().unsqueeze(1)
    common_B1M, one_BNM = (torch.where(part > least_B11, part, 0.0) * weigh_B1M for part in (common_B1M, one_BNM))
    return (F.cosine_similarity(common_B1M, one_BNM, dim=-1) * shares_BN).sum(1).mean()


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
