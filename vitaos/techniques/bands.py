"""Two bands of a token matrix, re-weighed: the one form that AttnScale, FeatScale and centered attention have.

DC[X] is the token mean, repeated; HC[X] = X - DC[X]. What a technique makes of a map A or of tokens Y is written as
(1 + high) HC + (1 + direct) DC and put into a slot as :class:`MapBands` or :class:`TokenBands`. Called like any
function of its slot, it computes the technique directly; ``folding`` finds it there and computes it within the output
projection instead, where that is possible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.recombine import recombine, token_mean
from vitaos.techniques.record import sizes_of

Weight = Tensor | float


class Bands(NamedTuple):
    """Weights of the bands, less 1: the parameters themselves, so that none is computed where none is used.

    Attributes:
        high: of HC; a number, or (heads,) for a map, (C,) for tokens.
        direct: of DC; likewise.
    """

    high: Weight = 0.0
    direct: Weight = 0.0


class Projection(NamedTuple):
    """An output projection, and the bands on either side of it.

    Attributes:
        weight: (C, K), K being heads x head_dim.
        bias: (C,).
        inner: bands of the map, by head.
        outer: bands of the output, by channel.
    """

    weight: Tensor
    bias: Tensor | None
    inner: Bands | None
    outer: Bands | None


@dataclass(frozen=True)
class MapBands:
    """An operator of an attention module: (1 + high)(A - A_d) + (1 + direct) A_d, with A_d = (1/N) 1 1^T.

    Of merged tokens every column of A_d is the token's size instead of 1, over the sum of the sizes.

    Applied to values it is (1 + high) A V + (direct - high) mean(V), whether the rows of A sum to 1 or not: no N x N
    map is needed.

    Attributes:
        bands: the weights by head, from the attention module.
    """

    bands: Callable[[Any], Bands]

    def __call__(self, attention: Any, attend: Callable[[Tensor], Tensor], v_BHND: Tensor) -> Tensor:
        """Apply the re-weighed map to the values, given a function that applies A."""
        high, direct = (_by_head(weight) for weight in self.bands(attention))
        mean = token_mean(v_BHND, sizes_of(attention))
        return recombine(attend(v_BHND), mean, 1 + high, direct - high)


@dataclass(frozen=True)
class TokenBands:
    """A function behind the attention branch: (1 + high) HC[Y] + (1 + direct) DC[Y].

    Attributes:
        bands: the weights by channel, from the block.
    """

    bands: Callable[[Any], Bands]

    def __call__(self, block: Any, y_BNC: Tensor) -> Tensor:
        """Re-weigh the tokens."""
        high, direct = (wide(weight) for weight in self.bands(block))
        return recombine(y_BNC, token_mean(y_BNC, sizes_of(block)), 1 + high, direct - high)


def wide(weight: Weight) -> Weight:
    """A weight in which 1 + w keeps the digits of w."""
    return at_least_float32(weight) if isinstance(weight, Tensor) else weight


def _by_head(weight: Weight) -> Weight:
    return at_least_float32(weight).view(-1, 1, 1) if isinstance(weight, Tensor) else weight


def in_turn(inner: Bands, outer: Bands) -> Bands:
    """The bands of one map after the other: A_d in both is the same (1/N) 1 1^T, not the mean of what came before."""
    if not isinstance(outer.high, Tensor) and outer.high == 0:
        return Bands(inner.high, _sum(inner.direct, outer.direct))
    first_high, first_direct, high, direct = (wide(weight) for weight in (*inner, *outer))
    gain = 1 + high
    return Bands(gain * (1 + first_high) - 1, gain * (1 + first_direct) + direct - high - 1)


def _sum(one: Weight, other: Weight) -> Weight:
    """Without arithmetic where one of them is 0."""
    if not isinstance(one, Tensor) and one == 0:
        return other
    return one if not isinstance(other, Tensor) and other == 0 else one + other
