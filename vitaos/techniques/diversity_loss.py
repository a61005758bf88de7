"""Patch diversity loss: the mean cosine of different patch tokens behind the last block, added to the training loss.

Source: Gong, Wang, Chen, Chen, Zhou, "Vision Transformers with Patch Diversification" (arXiv 2104.12753), who add the
mean absolute cosine; Chen, Zhang, Cheng, Awadallah, Wang, "The Principle of Diversity: Training Stronger Vision
Transformers Calls for Reducing All Levels of Redundancy", CVPR 2022, whose released command adds the cosine itself with
weight 0.5, as here (option ``weight``). No parameters; the model's output does not change.

With unit tokens u_i the mean over pairs is (|sum u|^2 - n) / (n (n - 1)): O(n C), no n x n map, and the number that the
monitor shows as token similarity behind the last block. Merged tokens count as often as the tokens that they stand for.
``every_block`` takes the mean over all blocks instead. Class and register tokens are left out.
"""

from functools import partial
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.losses import LossTerm
from vitaos.techniques.record import share_record, sizes_of
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_NAME: Final = "diversity_loss"
_PRIORITY: Final = 10


def mean_cosine(block: Any, x_BNC: Tensor, *, weight: float, prefix: int) -> Tensor:
    """Weight times the mean cosine over pairs of different patch tokens, mean over images."""
    unit_BNC = F.normalize(at_least_float32(x_BNC[:, prefix:]), dim=-1)
    sizes_BN = sizes_of(block)
    if sizes_BN is None:
        count = float(unit_BNC.shape[1])
        total_B = unit_BNC.sum(1).square().sum(-1)
        return weight * ((total_B - count) / (count * (count - 1))).mean()
    size_BN1 = sizes_BN[:, prefix:, None].to(unit_BNC.dtype)
    count_B = size_BN1.sum((1, 2))
    total_B = (size_BN1 * unit_BNC).sum(1).square().sum(-1)
    return weight * ((total_B - count_B) / (count_B * (count_B - 1))).mean()


def _check(_: list[Site], weight: float, every_block: bool) -> None:
    if weight < 0:
        raise ValueError(f"diversity_loss: weight={weight} would reward tokens that are alike; it is 0 or more.")


def _fill(sites: list[Site], weight: float, every_block: bool) -> None:
    share_record(sites)
    chosen = sites if every_block else sites[-1:]
    for site in chosen:
        term = partial(mean_cosine, weight=weight / len(chosen), prefix=site.prefix_tokens)
        fill(site.block, "losses", _PRIORITY, LossTerm(_NAME, term))


DIVERSITY_LOSS: Final = Technique(
    name=_NAME,
    summary="adds the mean cosine of patch tokens behind the last block to the training loss",
    fill=_fill,
    check=_check,
    losses=(_NAME,),
    options={"weight": 0.5, "every_block": False},
)
