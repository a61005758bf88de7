"""Attention distance: how far, in pixels, the patches are that a head attends to.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, appendix D.7: for every query patch the distance
to the key patches, weighed by its row of the softmax map, mean over queries and images. Class and register tokens have
no place: they are left out and the rest of the row is scaled to sum to 1. In Swin, distances are
those within a window; CaiT's mixed maps, which may be negative, count by their absolute values.

Shapes: B images, H heads, N tokens, G windows.
"""

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.capture import AttentionLayer, find_layout, watch
from vitaos.analysis.robustness.table import Table
from vitaos.analysis.streaming import RunningMoments

COLUMNS: Final = ("module", "block", "stage", "kind", "head", "distance", "std")


def measure_distances(model: nn.Module, batches: Iterable[Tensor], patch: int) -> Table:
    """Mean attention distance in pixels, and its standard deviation over images, by block and head.

    Class attention, whose one query has no place, is left out.

    Args:
        model: a timm ViT, CaiT or Swin.
        batches: normalized images.
        patch: side of a patch in pixels.
    """
    layout = find_layout(unwrap_model(model))
    moments: dict[int, RunningMoments] = {}
    batch_size, grid = 0, (0, 0)

    def remember_grid(index: int, _: Tensor, here: tuple[int, int]) -> None:
        nonlocal grid
        grid = here if index == 0 else grid

    def on_attention(index: int, map_BHMN: Tensor) -> None:
        layer = layout.attention[index]
        if layer.kind != "class":
            distance_BH = _distances(layer, map_BHMN, grid, batch_size) * patch * 2**layer.stage
            moments.setdefault(index, RunningMoments()).update(distance_BH)

    images = 0
    with watch(model, remember_grid, on_attention) as run:
        for batch in batches:
            batch_size, images = len(batch), images + len(batch)
            run(batch)
    rows: list[dict[str, Any]] = []
    for index, found in moments.items():
        layer = layout.attention[index]
        for head, (mean, std) in enumerate(zip(found.mean.tolist(), found.std.tolist(), strict=True), start=1):
            rows.append(
                {
                    "module": layer.name,
                    "block": layer.number,
                    "stage": layer.stage,
                    "kind": layer.kind,
                    "head": head,
                    "distance": mean,
                    "std": std,
                }
            )
    return Table("distance", COLUMNS, rows, {"images": images, "patch": patch})


def _distances(layer: AttentionLayer, map_BHMN: Tensor, grid: tuple[int, int], images: int) -> Tensor:
    """(B, H), in tokens."""
    tokens = map_BHMN.shape[-1]
    shape = grid if layer.kind == "token" else (math.isqrt(tokens), math.isqrt(tokens))
    patches = shape[0] * shape[1]
    weights = map_BHMN[:, :, -patches:, -patches:].double().abs()
    weights = weights / weights.sum(-1, keepdim=True)
    by_map = (weights * grid_distances(*shape).to(weights)).sum(-1).mean(-1)
    return by_map.unflatten(0, (images, -1)).mean(1)


def grid_distances(rows: int, columns: int) -> Tensor:
    """(N, N): Euclidean distance between the tokens of a grid, row by row, in tokens."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    return torch.cdist(places, places)
