"""TAP, token-aware average pooling: attention is given sum_k g_k P_k(x), of neighborhoods that each token weighs.

Source: Guo, Stutz, Schiele, "Robustifying Token Attention for Vision Transformers", ICCV 2023 (arXiv 2303.11126), as in
the authors' code: P_0(x) = x, P_k(x) the mean of the 3 x 3 tokens that lie k apart (zeros beyond the edge are counted),
k = 1 ... ``scales`` - 1, and g = softmax over k of conv(BatchNorm(conv(x))) at the token's place, both convolutions
3 x 3 without bias, C -> scales -> scales. In front of the norm of the attention branch only: the residual keeps x.
Modules ``tap_gates`` on each block. In the paper it goes with the attention diversity loss.

Class and register tokens, which have no place, are left as they are; the paper's models have none there. In Swin the
grid is the whole map, not the window.

Not the identity at the start: random gates near 1 / scales blur at once, which is for training from scratch. The batch
normalization has running statistics, as re-attention's: the same on all ranks, untouched by a step that is left out,
and ``checkpoint_gradients`` is refused.

Shapes: B images, K scales, Y x X tokens of the grid.
"""

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.dtypes import at_least_float32
from vitaos.techniques.grid import NO_GRID, PatchGrid, check_grid, grid_of_image
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 10
_NEIGHBORS: Final = 9
_MOST: Final = 16  # 3 x 3 tokens that lie further apart than any grid is wide


def pool_neighbors(block: Any, x_BNC: Tensor, *, grid: PatchGrid, prefix: int) -> Tensor:
    """Mix every patch token with the means of its neighborhoods."""
    x_BCYX = x_BNC[:, prefix:].transpose(1, 2).unflatten(2, grid.size)
    gate_BKYX = at_least_float32(block.tap_gates(x_BCYX)).softmax(1)
    pooled_BCYX = gate_BKYX[:, :1] * x_BCYX
    ones = x_BCYX.new_ones(x_BCYX.shape[1], 1, 3, 3)
    for scale in range(1, gate_BKYX.shape[1]):
        sum_BCYX = F.conv2d(x_BCYX, ones, padding=scale, dilation=scale, groups=len(ones))
        pooled_BCYX = pooled_BCYX + gate_BKYX[:, scale : scale + 1] / _NEIGHBORS * sum_BCYX
    pooled_BNC = pooled_BCYX.flatten(2).transpose(1, 2).to(x_BNC.dtype)
    return torch.cat([x_BNC[:, :prefix], pooled_BNC], dim=1) if prefix else pooled_BNC


def _check(sites: list[Site], scales: int) -> None:
    check_grid("tap", sites)
    if not 1 < scales <= _MOST:
        raise ValueError(
            f"tap: scales={scales}: the tokens themselves and 1 to {_MOST - 1} neighborhoods make 2 to 16."
        )


def _fill(sites: list[Site], scales: int) -> None:
    for site in sites:
        gates = nn.Sequential(
            nn.Conv2d(site.dim, scales, 3, padding=1, bias=False),
            nn.BatchNorm2d(scales),
            nn.Conv2d(scales, scales, 3, padding=1, bias=False),
        )
        weight = site.attention.proj.weight
        site.block.tap_gates = gates.to(device=weight.device, dtype=weight.dtype).train(site.block.training)
        pool = partial(pool_neighbors, grid=grid_of_image(site), prefix=site.prefix_tokens)
        fill(site.block, "pre_attention", _PRIORITY, pool)


TAP: Final = Technique(
    name="tap",
    summary="gives attention each token mixed with means of its neighborhoods, by gates that the token sets",
    fill=_fill,
    start="neighborhoods mixed by random gates",
    check=_check,
    parameters=(
        "tap_gates.0.weight",
        "tap_gates.1.weight",
        "tap_gates.1.bias",
        "tap_gates.1.running_mean",
        "tap_gates.1.running_var",
        "tap_gates.1.num_batches_tracked",
        "tap_gates.2.weight",
    ),
    options={"scales": 4},
    conflicts={"token_merging": NO_GRID, "token_selection": NO_GRID},
)
