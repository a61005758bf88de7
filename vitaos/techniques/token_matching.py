"""Which tokens merge: bipartite matching between every second token, and what becomes of the tokens then.

Shapes: B images, N tokens now, n afterwards, R that merge into others, P prefix tokens (class, distillation, register),
which are never touched; a and b the patch tokens at even and odd positions (the prefix counts), K anything.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.dtypes import at_least_float32, no_autocast


@dataclass(frozen=True)
class Sides:
    """The two sets of positions that are matched.

    Attributes:
        a: of the tokens that may merge.
        b: of those that they may merge into.
    """

    a: Tensor
    b: Tensor

    def swapped(self) -> "Sides":
        """The other direction."""
        return Sides(self.b, self.a)


def split(tokens: int, prefix: int, device: torch.device) -> Sides:
    """Patch tokens at even positions, and at odd ones."""
    positions = torch.arange(tokens, device=device)
    first = prefix + prefix % 2
    return Sides(positions[first::2], positions[prefix + 1 - prefix % 2 :: 2])


def most_that_merge(tokens: int, prefix: int) -> int:
    """How many tokens can merge in one round: half of the patch tokens."""
    return max(tokens - prefix, 0) // 2


def cosine(metric_BNK: Tensor, sides: Sides) -> Tensor:
    """(B, a, b): the cosine of every pair, in float32 at least."""
    unit_BNK = F.normalize(at_least_float32(metric_BNK), dim=-1)
    with no_autocast(metric_BNK.device.type):
        return unit_BNK[:, sides.a] @ unit_BNK[:, sides.b].transpose(1, 2)


@dataclass(frozen=True)
class Merge:
    """R tokens merged into others.

    Attributes:
        kept: (B, n), positions of the tokens that stay, in their new order: prefix, the rest of a, b.
        gone: (B, R), positions of the tokens that do not.
        into: (B, R), new positions of the tokens that these merge into.
    """

    kept: Tensor
    gone: Tensor
    into: Tensor

    def moved(self) -> Tensor:
        """(B, N): the new position of every token."""
        batch, stay = self.kept.shape
        moved_BN = self.kept.new_empty(batch, stay + self.gone.shape[1])
        stays_Bn = torch.arange(stay, device=moved_BN.device).expand(batch, -1)
        return moved_BN.scatter(1, self.kept, stays_Bn).scatter(1, self.gone, self.into)


def match(score_Bab: Tensor, rank_Ba: Tensor | None, sides: Sides, prefix: int, merged: int) -> Merge:
    """Merge the best pairs: every a chooses its best b, and of these pairs the best ``merged`` are made.

    Args:
        score_Bab: of the pairs.
        rank_Ba: which a merge first (the highest); None: the score of their best pair.
        sides: of the pairs.
        prefix: tokens in front that are never touched.
        merged: how many merge, at most as many as there are a.
    """
    best_Ba, partner_Ba = score_Bab.max(dim=-1)
    order_Ba = (best_Ba if rank_Ba is None else rank_Ba).argsort(dim=-1, descending=True, stable=True)
    gone_BR, rest_Ba = order_Ba[:, :merged], order_Ba[:, merged:].sort(dim=-1).values
    batch = order_Ba.shape[0]
    front = torch.arange(prefix, device=order_Ba.device).expand(batch, -1)
    kept_Bn = torch.cat([front, sides.a[rest_Ba], sides.b.expand(batch, -1)], dim=1)
    into_BR = partner_Ba.gather(1, gone_BR) + (prefix + rest_Ba.shape[1])
    return Merge(kept_Bn, sides.a[gone_BR], into_BR)


def sides_after(sides: Sides, prefix: int, merged: int) -> Sides:
    """Where the two sets lie after :func:`match`: what is left of a, then b."""
    positions = torch.arange(prefix, prefix + len(sides.a) + len(sides.b) - merged, device=sides.a.device)
    return Sides(*positions.tensor_split([len(sides.a) - merged]))


def take(x: Tensor, index_Bn: Tensor) -> Tensor:
    """Tokens by position: (B, ..., N, K) -> (B, ..., n, K)."""
    x_BNK = _tokens_second(x)
    rows = _rows(index_Bn, x_BNK.shape[1])
    taken_BnK = x_BNK.flatten(0, 1).index_select(0, rows).view(*index_Bn.shape, x_BNK.shape[2])
    return _tokens_back(taken_BnK, x)


def merge_by_size(x: Tensor, merge: Merge, sizes_BN: Tensor, merged_sizes_Bn: Tensor) -> Tensor:
    """Means weighed by size, in float32 at least: (B, ..., N, K) -> (B, ..., n, K)."""
    x_BNK = _tokens_second(x)
    batch, stay = merge.kept.shape
    share_Bn = sizes_BN.gather(1, merge.kept) / merged_sizes_Bn
    share_BR = sizes_BN.gather(1, merge.gone) / merged_sizes_Bn.gather(1, merge.into)
    stay_BnK = at_least_float32(take(x_BNK, merge.kept)) * share_Bn.unsqueeze(2)
    gone_BRK = at_least_float32(take(x_BNK, merge.gone)) * share_BR.unsqueeze(2)
    rows = _rows(merge.into, stay)
    summed = stay_BnK.flatten(0, 1).index_add(0, rows, gone_BRK.flatten(0, 1))
    return _tokens_back(summed.view(batch, stay, -1).to(x.dtype), x)


def _rows(index_Bn: Tensor, tokens: int) -> Tensor:
    """Positions in the tokens of all images one after the other."""
    offset_B1 = torch.arange(index_Bn.shape[0], device=index_Bn.device).unsqueeze(1) * tokens
    return (index_Bn + offset_B1).flatten()


def _tokens_second(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.movedim(-2, 1).flatten(2)


def _tokens_back(x_BnK: Tensor, like: Tensor) -> Tensor:
    if like.dim() == 3:
        return x_BnK
    return x_BnK.unflatten(2, (*like.shape[1:-2], like.shape[-1])).movedim(1, -2)
