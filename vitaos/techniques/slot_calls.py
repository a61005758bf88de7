"""What every family's slotted modules have in common: which slots there are, and what a forward pass makes of them.

Shapes as in ``slots``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.techniques.bands import Bands
from vitaos.techniques.folding import bands_of_map
from vitaos.techniques.record import PassRecord

Attend = Callable[[Tensor], Tensor]
SlotFunction = Callable[..., Any]
# (priority, function) in ascending priority: the order of effect, whatever the order of attaching.
Slot = tuple[tuple[int, SlotFunction], ...]


class AttentionSlots:
    """The slots of an attention module, and what its model's blocks share within a forward pass."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    heads: Slot = ()
    record: PassRecord | None = None
    shows_class_row: bool = False


class BlockSlots:
    """The slots of a block, its place in the model, and what the blocks share within a forward pass."""

    pre_attention: Slot = ()
    pre_norm: Slot
    post_attention: Slot
    post_mlp: Slot = ()
    tokens: Slot = ()
    losses: Slot = ()
    record: PassRecord | None = None
    place: int = 0
    skip_gain: float


def added_to_scores(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> Tensor | None:
    """The sum of the score slots' terms, in the type of the queries; None where there is nothing to add."""
    total = total_of(*(function(attention, q_BHND, k_BHND) for _, function in attention.scores))
    return None if total is None else total.to(q_BHND.dtype)


def total_of(*terms: Tensor | None) -> Tensor | None:
    """The sum of the terms that are there; None where none is."""
    total: Tensor | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def run_slot(slot: Slot, module: nn.Module, x: Tensor) -> Tensor:
    for _, function in slot:
        x = function(module, x)
    return x


def enter(block: Any) -> None:
    if block.record is not None:
        block.record.enter(block.place)


def enter_attention(block: Any, x_BNC: Tensor) -> Tensor:
    """What the norm in front of attention is given."""
    return run_slot(block.pre_norm, block, run_slot(block.pre_attention, block, x_BNC))


def run_mlp(block: Any, x_BNC: Tensor) -> Tensor:
    """The MLP's branch: what leaves it, before LayerScale and drop path."""
    y_BNC = block.mlp(block.norm2(run_slot(block.pre_norm, block, x_BNC)))
    return run_slot(block.post_mlp, block, y_BNC)


def check_masks(block: Any, given: tuple[Any, ...]) -> None:
    reduced_by = "" if block.record is None else block.record.reduced_by
    if reduced_by and any(value is not None and value is not False for value in given):
        raise ValueError(f"{reduced_by}: an attention mask names tokens by their place, which they lose here.")


def leave(block: Any, x_BNC: Tensor) -> Tensor:
    for _, term in block.losses:
        term(block, x_BNC)
    if block.record is not None:
        block.record.leave(block.place)
    return x_BNC


def residual(skip_gain: float, x: Tensor, branch: Tensor) -> Tensor:
    """The sum around attention, skip_gain * x + branch, in one pass over memory; plain addition at 1."""
    return x + branch if skip_gain == 1 else torch.add(branch, x, alpha=skip_gain)


def attend_with_map(attention: Any, scores_BHNM: Tensor) -> Attend:
    """Softmax, map slots, dropout: attention with its N x N map in memory."""
    map_BHNM = run_slot(attention.maps, attention, scores_BHNM.softmax(dim=-1))
    map_BHNM = attention.attn_drop(map_BHNM)
    return partial(torch.matmul, map_BHNM)


def attend_fused(
    attention: Any, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    """Attention by torch's fused kernels, dropout included; masks are theirs."""
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, mask, dropout, is_causal)


def masked(scores_BHNM: Tensor, attn_mask: Tensor | None, is_causal: bool, queries: int) -> Tensor:
    """Scores, or a term of them that broadcasts, with the masks of scaled_dot_product_attention."""
    if is_causal:
        shape = queries, scores_BHNM.shape[-1]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores_BHNM.device).tril()
    if attn_mask is None:
        return scores_BHNM
    if attn_mask.dtype == torch.bool:
        return scores_BHNM.masked_fill(~attn_mask, float("-inf"))
    return scores_BHNM + attn_mask


def attend_by_scores(
    attention: Any, q_BHND: Tensor, k_BHND: Tensor, *, mask: Tensor | None, is_causal: bool = False
) -> Attend:
    """Attention by scaled products of queries and keys: fused, or with its map where timm or a map slot has it so."""
    if attention.fused_attn and not attention.maps:
        return partial(attend_fused, attention, q_BHND, k_BHND, mask=mask, is_causal=is_causal)
    scores_BHNM = (q_BHND * attention.scale) @ k_BHND.transpose(-2, -1)
    return attend_with_map(attention, masked(scores_BHNM, mask, is_causal, q_BHND.shape[-2]))


def mix_values(attention: Any, x_BNC: Tensor, attend: Attend, v_BHND: Tensor) -> tuple[Tensor, Bands | None]:
    """The heads' outputs side by side, (B, N, H x D), operators and head slots included.

    Returns:
        Them, and the bands of the map that are left to the projection.
    """
    operators, of_map = bands_of_map(attention)
    for _, operator in operators:
        attend = partial(operator, attention, attend)
    z_BHND = attend(v_BHND)
    for _, function in attention.heads:
        z_BHND = function(attention, x_BNC, v_BHND, z_BHND)
    return z_BHND.transpose(1, 2).flatten(2), of_map
