"""Graph propagation (GTP): the tokens of least rank leave, and what they hold goes to their neighbors.

Source: Xu, Wang, Chen, Chang, Wang, "GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation", WACV
2024 (arXiv 2311.03035), section 3, the selection and the graph that did best there. A patch token's rank is max_h A_ii
times max_h sum_q A_qi. The graph joins a patch to its eight neighbors in the image and to the eight patches most like
it as they enter the first block; symmetrically normalized, it stays the same but for the tokens that leave. Those that
stay become x_K + alpha G_KP x_P, and lie in the order of their ranks. The map is formed once more for the ranks; the
authors' sparsification of maps (theta < 1) is not part of this, nor are sizes: every token counts as one.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.dtypes import at_least_float32, no_autocast
from vitaos.techniques.grid import PatchGrid
from vitaos.techniques.merge_criteria import attention_map
from vitaos.techniques.token_matching import take

_NEIGHBORS: Final = 8


@torch.no_grad()
def remember_graph(block: Any, x_BNC: Tensor, *, prefix: int, grid: PatchGrid) -> Tensor:
    """In front of the first block: leave the graph of the patches in the record.

    Raises:
        ValueError: the patches are not those of the model's own grid.
    """
    seen = block.record.seen
    if "graph" not in seen:
        patches_BPC = at_least_float32(x_BNC[:, prefix:])
        rows, columns = grid.size
        if patches_BPC.shape[1] != rows * columns:
            raise ValueError(
                f"token_merging: select=gtp joins neighbors on a grid of {rows} x {columns} patches, but there are "
                f"{patches_BPC.shape[1]}: images of another size, or patches that were dropped."
            )
        seen["graph"] = normalized(spatial_graph((rows, columns), x_BNC.device) | semantic_graph(patches_BPC))
    return x_BNC


def spatial_graph(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(P, P) bool: patches that touch each other."""
    place = torch.arange(grid[0] * grid[1], device=device)
    row, column = place // grid[1], place % grid[1]
    near = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    return near & (place[:, None] != place)


def semantic_graph(patches_BPC: Tensor) -> Tensor:
    """(B, P, P) bool: each patch and those of greatest cosine with it."""
    unit_BPC = F.normalize(patches_BPC, dim=-1)
    with no_autocast(unit_BPC.device.type):
        cosine_BPP = unit_BPC @ unit_BPC.transpose(1, 2)
    itself = torch.eye(cosine_BPP.shape[1], dtype=torch.bool, device=cosine_BPP.device)
    cosine_BPP = cosine_BPP.masked_fill(itself, -torch.inf)
    nearest = cosine_BPP.topk(min(_NEIGHBORS, cosine_BPP.shape[1] - 1), dim=-1).indices
    return torch.zeros_like(cosine_BPP, dtype=torch.bool).scatter(
        2, nearest, torch.ones_like(nearest, dtype=torch.bool)
    )


def normalized(graph_BPP: Tensor) -> Tensor:
    """D^-1/2 G D^-1/2."""
    edges_BPP = graph_BPP.float()
    scale_BP = edges_BPP.sum(dim=-1).clamp(min=1).rsqrt()
    return scale_BP.unsqueeze(2) * edges_BPP * scale_BP.unsqueeze(1)


@torch.no_grad()
def look_at_ranks(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> None:
    """Leave the ranks of the tokens in the record; adds nothing to the logits."""
    map_BHNM = attention_map(attention, q_BHND, k_BHND)
    own_BN = map_BHNM.diagonal(dim1=-2, dim2=-1).amax(dim=1)
    attention.record.seen["rank"] = own_BN * map_BHNM.sum(dim=2).amax(dim=1)


def propagate_tokens(block: Any, x_BNC: Tensor, *, merged: int, kept: int, prefix: int, alpha: float) -> Tensor:
    """Let ``merged`` tokens leave, or, where ``kept`` > 0, as many as are more than it; one patch token stays."""
    record, patches = block.record, x_BNC.shape[1] - prefix
    gone = min(x_BNC.shape[1] - kept if kept else merged, patches - 1)
    if gone < 1:
        return x_BNC
    order_BP = record.seen.pop("rank")[:, prefix:].argsort(dim=1, descending=True, stable=True)
    stay_BK, gone_BR = order_BP.tensor_split([patches - gone], dim=1)
    rows_BKP = take(record.seen["graph"], stay_BK)
    to_BKR = rows_BKP.gather(2, gone_BR.unsqueeze(1).expand(-1, patches - gone, -1))
    record.seen["graph"] = rows_BKP.gather(2, stay_BK.unsqueeze(1).expand(-1, patches - gone, -1))
    front = torch.arange(prefix, device=x_BNC.device).expand(x_BNC.shape[0], -1)
    kept_Bn = torch.cat([front, stay_BK + prefix], dim=1)

    def reduce(x: Tensor) -> Tensor:
        edges = to_BKR.to(at_least_float32(x).dtype).view(x.shape[0], *[1] * (x.dim() - 3), *to_BKR.shape[1:])
        with no_autocast(x.device.type):
            passed = alpha * (edges @ at_least_float32(take(x, gone_BR + prefix)))
        return (take(x, kept_Bn) + F.pad(passed, (0, 0, prefix, 0))).to(x.dtype)

    places_Bn = torch.arange(kept_Bn.shape[1], device=x_BNC.device).expand(kept_Bn.shape[0], -1)
    moved_BN = torch.full_like(order_BP[:, :1], -1).expand(-1, x_BNC.shape[1]).scatter(1, kept_Bn, places_Bn)
    return record.reduce(x_BNC, reduce, moved_BN)
