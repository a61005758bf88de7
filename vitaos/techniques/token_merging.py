"""Token merging (ToMe): in every block the r most similar pairs of tokens become one, between attention and MLP.

Source: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, "Token Merging: Your ViT But Faster", ICLR 2023 (arXiv
2210.09461), section 3. No parameters. Patch tokens at even positions each choose the most similar one at an odd
position (cosine of their keys, averaged over heads); the r best pairs become the mean of their tokens, weighed by size,
which is the number of patches that a token stands for. ``proportional`` adds log(size) to a token's logits as a key.

r is the same in every block, or falls (``inflection`` = -1: from 2 r to 0) or rises (1: from 0 to 2 r) with depth;
``kept`` says instead how many tokens remain behind each block, prefix included, and ``PUBLISHED_KEPT`` has lists that
DiffRate's search found, by name (``kept=diffrate_s_2.9``; Chen et al., ICCV 2023, arXiv 2305.17997). No block merges
more than half of its patch tokens in a round: r is clipped there, ``kept`` takes as many rounds as it needs.

Merging is exact beside the other techniques: every mean over tokens (AttnScale, FeatScale, centering, shaping,
ContraNorm's and re-attention's sums, mean pooling) weighs tokens by size, so tokens that are exact duplicates give the
logits they gave unmerged. Class, distillation and register tokens are never merged; LayerScale and the norms of queries
and keys, which the authors' code leaves out, are timm's own and stay. ``criterion``, what pairs are chosen by, is in
``merge_criteria``. ``select=gtp`` is another way to have fewer tokens: those of least rank leave, and ``alpha`` times
what they hold goes to their neighbors (``graph_propagation``); nothing merges then, and every token counts as one.

Not the identity at the start, but acts on trained models as they are. Matching is not differentiated; the means are.
Gradient checkpointing, attention masks and ``features_only`` are refused: tokens have no grid any more.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from vitaos.dtypes import wide_dtype
from vitaos.techniques.graph_propagation import look_at_ranks, propagate_tokens, remember_graph
from vitaos.techniques.grid import grid_of_image
from vitaos.techniques.merge_criteria import CRITERIA, look_at_attention, score_pairs
from vitaos.techniques.record import PassRecord, log_sizes, share_record
from vitaos.techniques.reducible import REFUSES, check_reducible
from vitaos.techniques.sites import Site, backbone_in, fill
from vitaos.techniques.sized_pooling import pool_by_size
from vitaos.techniques.technique import Technique
from vitaos.techniques.token_matching import Merge, match, merge_by_size, most_that_merge, sides_after, split

PUBLISHED_KEPT: Final = {
    "diffrate_ti_0.6": (197, 187, 167, 139, 114, 90, 76, 66, 57, 45, 37, 3),
    "diffrate_ti_0.8": (197, 196, 190, 172, 154, 125, 107, 96, 84, 78, 70, 3),
    "diffrate_s_2.3": (197, 180, 156, 127, 109, 98, 80, 66, 52, 37, 31, 3),
    "diffrate_s_2.9": (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
    "diffrate_b_8.7": (197, 178, 162, 141, 115, 96, 78, 60, 47, 21, 13, 3),
    "diffrate_b_11.5": (197, 197, 192, 178, 158, 145, 127, 111, 94, 50, 35, 3),
}
"""Name (DeiT's width and the billions of multiplications that the search aimed at) -> ``kept``, from the authors'
compression_rate.json, class token included. Their tokens are pruned before they merge; here all of them merge."""
SELECTIONS: Final = ("pairs", "gtp")
_NAME: Final = "token_merging"
_PRIORITY: Final = 50
_logger = logging.getLogger(__name__)


class Amount(NamedTuple):
    """What a block is to do.

    Attributes:
        merged: tokens that merge, in one round; half of the patch tokens at most.
        kept: where it is not 0, the tokens that are to be left instead, in as many rounds as it takes.
    """

    merged: int = 0
    kept: int = 0


def merge_tokens(block: Any, x_BNC: Tensor, *, amount: Amount, prefix: int, criterion: str) -> Tensor:
    """Merge tokens that resemble each other; the first ``prefix`` tokens stay as they are."""
    kept, record = amount.kept, block.record
    missing = x_BNC.shape[1] - kept if kept else amount.merged
    while (now := min(missing, most_that_merge(x_BNC.shape[1], prefix))) > 0:
        sides = split(x_BNC.shape[1], prefix, x_BNC.device)
        first = now // 2 if criterion == "mctf" else now  # MCTF: half in one direction, the others back
        for count in (first, now - first):
            if count:
                scores = score_pairs(record, x_BNC, sides, criterion)
                x_BNC = _merge(record, x_BNC, match(*scores, sides, prefix, count))
                sides = sides_after(sides, prefix, count).swapped()
        missing = missing - now if kept else 0
    record.seen.clear()
    return x_BNC


def _merge(record: PassRecord, x_BNC: Tensor, merge: Merge) -> Tensor:
    sizes_BN = record.sizes_BN
    if sizes_BN is None:
        sizes_BN = torch.ones(x_BNC.shape[:2], dtype=wide_dtype(x_BNC.dtype), device=x_BNC.device)
    merged_Bn = sizes_BN.gather(1, merge.kept).scatter_add(1, merge.into, sizes_BN.gather(1, merge.gone))
    reduce = partial(merge_by_size, merge=merge, sizes_BN=sizes_BN, merged_sizes_Bn=merged_Bn)
    x_BnC = record.reduce(x_BNC, reduce, merge.moved())
    record.sizes_BN = merged_Bn
    record.seen = {name: reduce(value) for name, value in record.seen.items()}
    return x_BnC


def add_log_sizes(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> Tensor | None:
    """Proportional attention: a token counts as a key as often as its size says."""
    return log_sizes(attention, q_BHND)


def schedule(r: int, inflection: float, depth: int) -> list[int]:
    """Tokens to merge in each block: from r (1 - inflection) to r (1 + inflection), rounded down as the authors do."""
    first = int(r * (1 - inflection))
    step = (2 * r - 2 * first) / max(depth - 1, 1)
    return [int(first + step * block) for block in range(depth)]


def _amounts(sites: list[Site], r: int, inflection: float, kept: str | Sequence[int]) -> list[Amount]:
    if not kept:
        return [Amount(merged=merged) for merged in schedule(r, inflection, len(sites))]
    counts = PUBLISHED_KEPT[kept] if isinstance(kept, str) else kept
    return [Amount(kept=count) for count in counts]


def _tokens(sites: list[Site]) -> tuple[int, int]:
    """Tokens of an image of the model's size, and those of the prefix among them."""
    backbone = backbone_in(sites[0].model)
    prefix = int(backbone.num_prefix_tokens)
    return int(backbone.patch_embed.num_patches) + prefix, prefix


def _check(sites: list[Site], *, criterion: str, select: str, alpha: float, proportional: bool, **amounts: Any) -> None:
    check_reducible(_NAME, sites)
    if criterion not in CRITERIA:
        raise ValueError(f"token_merging: criterion={criterion!r}: it is one of {', '.join(CRITERIA)}.")
    if select not in SELECTIONS:
        raise ValueError(f"token_merging: select={select!r}: it is one of {', '.join(SELECTIONS)}.")
    if select == "gtp" and criterion != "keys":
        raise ValueError("token_merging: select=gtp has its own ranks and no pairs: leave criterion as it is.")
    _check_amounts(sites, **amounts)


def _check_amounts(sites: list[Site], r: int, inflection: float, kept: Any) -> None:
    if r < 0:
        raise ValueError(f"token_merging: r={r}: the number of tokens that merge in a block is 0 or more.")
    if not -1 <= inflection <= 1:
        raise ValueError(
            f"token_merging: inflection={inflection}: it is between -1 (2 r to 0 tokens) and 1 (0 to 2 r)."
        )
    if isinstance(kept, str) and kept not in PUBLISHED_KEPT:
        raise ValueError(f"token_merging: kept={kept!r}: a list of tokens, or one of {', '.join(PUBLISHED_KEPT)}.")
    counts = [amount.kept for amount in _amounts(sites, r, inflection, kept)] if kept else []
    tokens, prefix = _tokens(sites)
    if counts and len(counts) != len(sites):
        raise ValueError(f"token_merging: kept has {len(counts)} numbers, but the model has {len(sites)} blocks.")
    if counts and (counts != sorted(counts, reverse=True) or not prefix < counts[-1] <= counts[0] <= tokens):
        raise ValueError(
            f"token_merging: kept={counts} cannot be: tokens never become more, at least one patch token stays beside "
            f"the {prefix} of the prefix, and an image has {tokens}."
        )


def _fill(sites: list[Site], *, proportional: bool, criterion: str, select: str, alpha: float, **amounts: Any) -> None:
    record = share_record(sites, needed_by=_NAME)
    record.reduced_by = _NAME
    blocks = list(zip(sites, _amounts(sites, **amounts), strict=True))
    if select == "gtp":
        _fill_propagation(blocks, alpha)
        return
    pool_by_size(backbone_in(sites[0].model), record)
    left, prefix = _tokens(sites)
    clipped = []
    for site, amount in blocks:
        if proportional:
            fill(site.attention, "scores", _PRIORITY, add_log_sizes)
        if any(amount):
            fill(site.attention, "scores", _PRIORITY, partial(look_at_attention, criterion=criterion))
            merge = partial(merge_tokens, amount=amount, prefix=prefix, criterion=criterion)
            fill(site.block, "tokens", _PRIORITY, merge)
        most = most_that_merge(left, prefix)
        if amount.merged > most:
            clipped.append(f"{site.path} ({amount.merged} -> {most})")
        left = amount.kept or left - min(amount.merged, most)
    if clipped:
        _logger.warning(
            "token_merging: r=%s is more than half of the patch tokens in %s, and is clipped there.",
            amounts["r"],
            ", ".join(clipped),
        )


def _fill_propagation(blocks: list[tuple[Site, Amount]], alpha: float) -> None:
    sites = [site for site, _ in blocks]
    _, prefix = _tokens(sites)
    graph = partial(remember_graph, prefix=prefix, grid=grid_of_image(sites[0]))
    fill(sites[0].block, "pre_norm", 0, graph)
    for site, amount in blocks:
        if any(amount):
            fill(site.attention, "scores", _PRIORITY, look_at_ranks)
            propagate = partial(propagate_tokens, **amount._asdict(), prefix=prefix, alpha=alpha)
            fill(site.block, "tokens", _PRIORITY, propagate)


TOKEN_MERGING: Final = Technique(
    name=_NAME,
    summary="merges the most similar tokens of every block, for speed",
    fill=_fill,
    start="tokens that are means of tokens",
    check=_check,
    options={
        "r": 13,
        "inflection": 0.0,
        "kept": (),
        "proportional": True,
        "criterion": "keys",
        "select": "pairs",
        "alpha": 0.1,
    },
    refuses=REFUSES,
    reduces_tokens=True,
)
