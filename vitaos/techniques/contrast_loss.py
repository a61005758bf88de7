"""Contrast of first and last block: every last patch token is to stay nearer to its own first than the others do.

Source: Gong, Wang, Chen, Chen, Zhou, "Vision Transformers with Patch Diversification" (arXiv 2104.12753), section 4.2;
Chen et al., "The Principle of Diversity", CVPR 2022, whose released command gives it the weight 0.5 (option). With unit
tokens a_i behind the first block, held fixed, and b_i behind the last,
    -(1/n) sum_i log( exp(a_i b_i) / (exp(a_i b_i) + exp(mean over j != i of a_i b_j)) ):
the others enter by the exponential of their mean, as in both codes, which needs no n x n map. Unit length is ours. No
parameters; the model's output does not change. Class and register tokens are left out, merged ones count as those that
they stand for; gradient checkpointing, which runs blocks again when the first block's tokens are gone, is refused.
"""

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.losses import LossTerm, collects_losses
from vitaos.techniques.record import share_record, sizes_of
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_NAME: Final = "contrast_loss"
_PRIORITY: Final = 20


def keep_tokens(block: Any, x_BNC: Tensor) -> None:
    """The first block: keep its tokens."""
    if collects_losses(block):
        block.record.carried[_NAME] = x_BNC.detach()


def contrast(block: Any, x_BNC: Tensor, *, weight: float, prefix: int) -> Tensor:
    """The last block: how well every token is told from the mean of the others by what it was at first."""
    first_BNC = block.record.carried[_NAME]
    a_BNC, b_BNC = (F.normalize(at_least_float32(tokens[:, prefix:]), dim=-1) for tokens in (first_BNC, x_BNC))
    own_BN = (a_BNC * b_BNC).sum(-1)
    sizes_BN = sizes_of(block)
    size_BN = torch.ones_like(own_BN) if sizes_BN is None else sizes_BN[:, prefix:].to(own_BN.dtype)
    count_B1 = size_BN.sum(1, keepdim=True)
    total_B1C = (b_BNC * size_BN.unsqueeze(2)).sum(1, keepdim=True)
    others_BN = ((a_BNC * total_B1C).sum(-1) - own_BN) / (count_B1 - 1)
    return weight * (F.softplus(others_BN - own_BN) * size_BN / count_B1).sum(1).mean()


def _check(sites: list[Site], weight: float) -> None:
    if weight < 0:
        raise ValueError(f"contrast_loss: weight={weight} would pull tokens away from their own; it is 0 or more.")
    if len(sites) < 2:
        raise ValueError("contrast_loss: a model of one block has no later block to contrast with the first.")


def _fill(sites: list[Site], weight: float) -> None:
    share_record(sites, needed_by=_NAME)
    fill(sites[0].block, "losses", _PRIORITY, keep_tokens)
    term = partial(contrast, weight=weight, prefix=sites[-1].prefix_tokens)
    fill(sites[-1].block, "losses", _PRIORITY, LossTerm(_NAME, term))


CONTRAST_LOSS: Final = Technique(
    name=_NAME,
    summary="adds a contrast of every last patch token with its own first one to the training loss",
    fill=_fill,
    check=_check,
    losses=(_NAME,),
    options={"weight": 0.5},
    refuses={"Swin": "tokens of the first stage have another resolution and width than those of the last"},
)
