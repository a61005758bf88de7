"""Centered attention: A - (1/N) 1 1^T, every row shifted to sum to 0, so that the direct current is not passed on.

Source: Ali, Galanti, Wolf, "Centered Self-Attention Layers", 2023 (arXiv 2306.01610). No parameters. Fused attention
stays in use: (A - (1/N) 1 1^T) V = A V - mean(V). Together with AttnScale: (1 + w) A_h.

In Swin the mean is over the tokens of the window, those masked in a shifted window included, as AttnScale's is.

Not the identity at the start: a model trained without it must be trained on.
"""

from typing import Any, Final

from vitaos.techniques.bands import Bands, MapBands
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 50  # after AttnScale, whose direct-current part it takes away


def map_bands(_: Any) -> Bands:
    """Nothing is left of the direct current."""
    return Bands(direct=-1.0)


def _fill(sites: list[Site]) -> None:
    for site in sites:
        fill(site.attention, "operators", _PRIORITY, MapBands(map_bands))


CENTERED_ATTENTION: Final = Technique(
    name="centered_attention",
    summary="takes the direct-current part out of every attention map",
    fill=_fill,
    start="A - (1/N) 1 1^T",
)
