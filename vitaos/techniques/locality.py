"""Locality: attention scores that know how far two patches lie apart on the grid, from a start that changes nothing.

With d_ij the distance of patches i and j in patches, and h the head:

    additive (``multiply`` = false)    scores - b_h d_ij^2,    b = ``locality_slope`` (heads,) starting at 0
    ``multiply`` = true                scores * (1 + sum_k a_hk (exp(-d_ij^2 / (2 s_hk^2)) - 1)),
                                       a = ``locality_weight`` (heads, K) starting at 0,
                                       s = ``locality_width`` (heads, K) starting at 1, 2, 4, ... patches

Source of the multiplying form: "Gaussian Mixture Mask" (arXiv 2309.05375), a sum of K Gaussians of the distance times
the scores, before the softmax, with random signs and widths at the start; of the additive one, with the distance itself
and fixed slopes: Press, Smith, Lewis, "Train Short, Test Long", ICLR 2022. Starting at the identity is ours, so that
trained weights stay what they are. That paper's masked model also pools by the mean without a class token where its
baseline has one: here these are two switches, ``locality`` and ``global_pool=avg``.

Class and register tokens have no place: their scores are left alone. In Swin, scores are queries times keys, and the
grid is the window. The term is (heads, N, N) beside the scores, or, where it multiplies, (B, heads, N, N), for which
the scores are computed twice; fused attention takes it as a mask, but no kernel of torch's trains a mask without its
N x N map, so training has one.
"""

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from vitaos.dtypes import at_least_float32
from vitaos.techniques.grid import NO_GRID, PatchGrid, check_grid, grid_of_attention
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 10


def subtract_distance(attention: Any, _: Tensor, __: Tensor, *, grid: PatchGrid, built: tuple[int, int]) -> Tensor:
    """(1, H, N, N): what the scores lose."""
    grid.check("locality", built)
    slope_H11 = at_least_float32(attention.locality_slope).view(-1, 1, 1)
    return (-slope_H11 * attention.locality_distances).unsqueeze(0)


def multiply_by_distance(
    attention: Any, q_BHND: Tensor, k_BHND: Tensor, *, grid: PatchGrid, built: tuple[int, int]
) -> Tensor:
    """(B, H, N, N): (factor - 1) times the scores."""
    grid.check("locality", built)
    weight_HK = at_least_float32(attention.locality_weight)
    width_HK = at_least_float32(attention.locality_width)
    falls_HKNN = (-attention.locality_distances / (2 * width_HK.square()[..., None, None])).expm1()
    change_HNN = torch.einsum("hk,hknm->hnm", weight_HK, falls_HKNN)
    return (q_BHND * attention.scale) @ k_BHND.transpose(-2, -1) * change_HNN


def squared_distances(grid: tuple[int, int], prefix: int) -> Tensor:
    """(N, N): squared distances between the tokens of a grid, row by row; 0 from and to the tokens in front of it."""
    rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    apart = (places[:, None] - places[None]).square().sum(-1)
    return nn.functional.pad(apart, (prefix, 0, prefix, 0))


def _check(sites: list[Site], multiply: bool, gaussians: int) -> None:
    check_grid("locality", sites)
    if multiply and sites[0].kind.name == "CaiT":
        raise ValueError("locality: multiply=true is not defined on CaiT, which mixes the heads' scores; add instead.")
    if gaussians < 1:
        raise ValueError(f"locality: gaussians={gaussians}: it takes one at least.")


def _fill(sites: list[Site], multiply: bool, gaussians: int) -> None:
    for site in sites:
        attention, heads = site.attention, site.num_heads
        grid = grid_of_attention(site)
        distances = squared_distances(grid.size, site.prefix_tokens).to(attention.proj.weight.device)
        attention.register_buffer("locality_distances", distances, persistent=False)
        if not multiply:
            attention.locality_slope = site.parameter(heads)
            fill(attention, "scores", _PRIORITY, partial(subtract_distance, grid=grid, built=grid.size))
            continue
        new = attention.proj.weight.new_full
        attention.locality_weight = nn.Parameter(new((heads, gaussians), 0.0))
        widths = 2.0 ** torch.arange(gaussians)
        attention.locality_width = nn.Parameter(new((heads, gaussians), 1.0) * widths.to(attention.proj.weight))
        fill(attention, "scores", _PRIORITY, partial(multiply_by_distance, grid=grid, built=grid.size))


LOCALITY: Final = Technique(
    name="locality",
    summary="lets attention scores fall with the distance of two patches, by a learned slope or Gaussian mixture",
    fill=_fill,
    check=_check,
    identity={"locality_slope": 0, "locality_weight": 0},
    parameters=("locality_slope", "locality_weight", "locality_width"),
    options={"multiply": False, "gaussians": 3},
    conflicts={"token_merging": NO_GRID, "token_selection": NO_GRID},
)
