"""Token selection (EViT): in some blocks the patch tokens that the class token attends to least make room for one.

Source: Liang, Ge, Tong, Song, Wang, Xie, "Not All Patches Are What You Need: Expediting Vision Transformers via Token
Reorganizations", ICLR 2022 (arXiv 2202.07800), section 3. No parameters. In ``blocks`` (0-based; by default those at a
quarter, half and three quarters of the depth, 3, 6 and 9 of 12 as in the paper), between attention and MLP, of n patch
tokens the ceil(keep n) stay on which the class token's row of the map, averaged over heads, is greatest, in descending
order; with ``fuse`` the sum of the others, each times its attention (not divided by the sum of these, as in the
authors' code), is one token more, an ordinary patch token for later blocks. The row is softmax(q_class k^T), O(N) and
no N x N map, so fused attention stays in use; with AttnScale it is that of A_hat.

In training, ``keep`` is reached along half a cosine from 1, over ``shrink_epochs`` epochs after ``shrink_start`` (the
paper's 300 epochs from scratch: 10 and 100; by default 0 and 0, at once, as in its fine-tuning). It is a function of
the step alone. Its ``stages`` are levels of equal height, so that a compiled model is compiled once for each; 0 follows
the cosine in every step, as the authors do. Evaluation always uses ``keep``.

Every token counts as one in the means of other techniques, the fused one too, as in the paper. Not the identity at the
start unless ``keep`` = 1. Gradient checkpointing, attention masks and ``features_only`` are refused.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from vitaos.techniques.class_row import class_row
from vitaos.techniques.record import share_record
from vitaos.techniques.reducible import REFUSES, check_reducible
from vitaos.techniques.sites import Site, backbone_in, fill
from vitaos.techniques.technique import Technique
from vitaos.techniques.token_matching import take

_NAME: Final = "token_selection"
_PRIORITY: Final = 50


def look_at_class_row(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> None:
    """Leave (B, M) in the record, the class token's row of the map, averaged over heads; adds nothing to the logits."""
    attention.record.seen["class_row"] = class_row(attention, q_BHND, k_BHND)


def select_tokens(block: Any, x_BNC: Tensor, *, keep: float, fuse: bool, prefix: int) -> Tensor:
    """Keep the patch tokens that the class token attends to most."""
    record = block.record
    row_BM = record.seen.pop("class_row")[:, prefix:]
    rate = record.scheduled.get(_NAME, keep) if block.training else keep
    stay = math.ceil(rate * row_BM.shape[1])
    if stay >= row_BM.shape[1]:
        return x_BNC
    order_BM = row_BM.detach().argsort(dim=1, descending=True, stable=True) + prefix
    front = torch.arange(prefix, device=x_BNC.device).expand(order_BM.shape[0], -1)
    kept_Bn = torch.cat([front, order_BM[:, :stay]], dim=1)
    gone_BR = order_BM[:, stay:]
    weight_BR = row_BM.gather(1, gone_BR - prefix) if fuse else None

    def reduce(x: Tensor) -> Tensor:
        kept = take(x, kept_Bn)
        if weight_BR is None:
            return kept
        weights = weight_BR.view(weight_BR.shape[0], *[1] * (x.dim() - 3), -1, 1)
        fused = (take(x, gone_BR) * weights).sum(dim=-2, keepdim=True)
        return torch.cat([kept, fused.to(x.dtype)], dim=-2)

    places_Bn = torch.arange(kept_Bn.shape[1], device=x_BNC.device).expand(kept_Bn.shape[0], -1)
    moved_BN = torch.full_like(order_BM[:, :1], kept_Bn.shape[1] if fuse else -1).expand(-1, x_BNC.shape[1])
    return record.reduce(x_BNC, reduce, moved_BN.scatter(1, kept_Bn, places_Bn))


def scheduled_keep(epoch: float, *, keep: float, shrink_start: float, shrink_epochs: float, stages: int) -> float:
    """The rate of kept tokens at a point of training, in epochs."""
    done = min(max((epoch - shrink_start) / shrink_epochs, 0.0), 1.0) if shrink_epochs else float(epoch >= shrink_start)
    above = 0.5 * (1 + math.cos(math.pi * done))
    if stages:
        above = math.ceil(above * stages) / stages
    return keep + (1 - keep) * above


def default_blocks(depth: int) -> list[int]:
    """Behind a quarter, half and three quarters of the blocks."""
    return sorted({depth // 4, depth // 2, 3 * depth // 4})


def _check(sites: list[Site], *, keep: float, blocks: Sequence[int], **times: Any) -> None:
    check_reducible(_NAME, sites)
    backbone = backbone_in(sites[0].model)
    if not backbone.has_class_token:
        raise ValueError("token_selection: this model has no class token (class_token=false), by whose row to select.")
    if not 0 < keep <= 1:
        raise ValueError(f"token_selection: keep={keep}: the share of tokens that stay is above 0 and at most 1.")
    if isinstance(blocks, str) or any(block >= len(sites) for block in blocks) or len({*blocks}) != len(blocks):
        raise ValueError(
            f"token_selection: blocks={blocks!r}: numbers of blocks, from 0 to {len(sites) - 1} here, each once."
        )
    for name in ("shrink_start", "shrink_epochs", "stages"):
        if times[name] < 0:
            raise ValueError(f"token_selection: {name}={times[name]} is below 0.")


def _fill(sites: list[Site], *, keep: float, fuse: bool, blocks: Sequence[int], **times: Any) -> None:
    record = share_record(sites, needed_by=_NAME)
    record.reduced_by = _NAME
    if times["shrink_start"] or times["shrink_epochs"]:
        record.schedules[_NAME] = partial(scheduled_keep, keep=keep, **times)
    prefix = int(backbone_in(sites[0].model).num_prefix_tokens)
    for block in blocks or default_blocks(len(sites)):
        fill(sites[block].attention, "scores", _PRIORITY, look_at_class_row)
        select = partial(select_tokens, keep=keep, fuse=fuse, prefix=prefix)
        fill(sites[block].block, "tokens", _PRIORITY, select)


TOKEN_SELECTION: Final = Technique(
    name=_NAME,
    summary="keeps the patch tokens that the class token attends to most, for speed",
    fill=_fill,
    start="fewer tokens in three blocks",
    check=_check,
    options={"keep": 0.7, "fuse": True, "blocks": (), "shrink_start": 0.0, "shrink_epochs": 0.0, "stages": 5},
    refuses=REFUSES,
    reduces_tokens=True,
    conflicts={"token_merging": "both make the tokens of a block fewer, in the same place"},
)
