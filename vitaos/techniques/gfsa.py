"""GFSA: w_0 I + w_1 A + w_K (A + (K - 1)(A^2 - A)), a polynomial of each head's map; the last term stands for A^K.

Source: Choi, Wi, Kim, Shin, Lee, Trask, Park, "Graph Convolutions Enrich the Self-Attention in Transformers!", NeurIPS
2024, section 4. Parameters ``gfsa_identity`` = w_0, ``gfsa_linear`` = w_1, ``gfsa_power`` = w_K, (heads,) on each
attention module, starting at 0, 1, 0: the identity. K is the option ``order``; the authors' image code has K = 4 (3 in
their Swin), learns w_K alone, and calls it ``lamb`` as the release of AttnScale does: files of the two have the same
names.

No N x N map: A^2 V = A (A V), one more pass of fused attention. With attention dropout (0 in all recipes) the two
passes drop independently.
"""

from functools import partial
from typing import Any, Final

from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.slot_calls import Attend
from vitaos.techniques.technique import Technique

_MOST: Final = 100  # the last term grows with K - 1
_PRIORITY: Final = 20


def filter_values(attention: Any, attend: Attend, v_BHND: Tensor, *, order: int) -> Tensor:
    """Apply the polynomial of A to the values."""
    identity, linear, power = (
        at_least_float32(weight).view(-1, 1, 1)
        for weight in (attention.gfsa_identity, attention.gfsa_linear, attention.gfsa_power)
    )
    once_BHND = attend(v_BHND)
    twice_BHND = attend(once_BHND)
    filtered_BHND = identity * v_BHND + (linear + (2 - order) * power) * once_BHND + (order - 1) * power * twice_BHND
    return filtered_BHND.to(v_BHND.dtype)


def _check(_: list[Site], order: int) -> None:
    if not 2 <= order <= _MOST:
        raise ValueError(f"gfsa: order (K) must be 2 or more, up to {_MOST}, not {order}.")


def _fill(sites: list[Site], order: int) -> None:
    for site in sites:
        site.attention.gfsa_identity = site.parameter(site.num_heads)
        site.attention.gfsa_linear = site.parameter(site.num_heads, 1.0)
        site.attention.gfsa_power = site.parameter(site.num_heads)
        fill(site.attention, "operators", _PRIORITY, partial(filter_values, order=order))


GFSA: Final = Technique(
    name="gfsa",
    summary="makes every head's map a learned polynomial w_0 I + w_1 A + w_K A^K",
    fill=_fill,
    check=_check,
    identity={"gfsa_identity": 0, "gfsa_linear": 1, "gfsa_power": 0},
    parameters=("gfsa_identity", "gfsa_linear", "gfsa_power"),
    options={"order": 4},
)
