"""Laplacian heads: V - A V in place of A V in some heads of every block: high-pass filters I - A beside the low-pass.

Source: arXiv 2602.09297 (2026), which adds the branch of these heads to that of the others through one output
projection. No parameters. The last ``fraction`` of each module's heads, half of them by default (the choice of which is
ours; heads are interchangeable at the start). The paper holds that tokens then grow *more* alike, by class: a
counter-hypothesis to this project's paper, which the monitor measures.

Not the identity at the start. Fused attention stays in use; the difference is taken in float32. GFSA reaches the same
map with w_0 = 1, w_1 = -1 in those heads. In Swin, tokens are those of the window.
"""

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.slot_calls import Attend
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 35


def subtract_attended(_: Any, attend: Attend, v_BHND: Tensor, *, heads: int) -> Tensor:
    """V - A V in the last ``heads`` heads, A V in the others."""
    attended_BHND = attend(v_BHND)
    low_BHND, filtered_BHND = attended_BHND[:, :-heads], attended_BHND[:, -heads:]
    high_BHND = at_least_float32(v_BHND[:, -heads:]) - filtered_BHND
    return torch.cat([low_BHND, high_BHND.to(attended_BHND.dtype)], dim=1)


def _heads(site: Site, fraction: float) -> int:
    return round(fraction * site.num_heads)


def _check(sites: list[Site], fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"laplacian_heads: fraction={fraction}: the share of the heads is above 0 and at most 1.")
    for site in sites:
        if _heads(site, fraction) == 0:
            raise ValueError(
                f"laplacian_heads: fraction={fraction} of the {site.num_heads} heads of {site.path} is none of them."
            )


def _fill(sites: list[Site], fraction: float) -> None:
    for site in sites:
        subtract = partial(subtract_attended, heads=_heads(site, fraction))
        fill(site.attention, "operators", _PRIORITY, subtract)


LAPLACIAN_HEADS: Final = Technique(
    name="laplacian_heads",
    summary="gives the last half of every block's heads the high-pass map I - A",
    fill=_fill,
    start="V - A V in a fraction of the heads",
    check=_check,
    options={"fraction": 0.5},
)
