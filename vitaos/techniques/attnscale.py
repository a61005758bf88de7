"""AttnScale: A_hat = A_d + (1 + w_h) A_h for each head h, with A_d = (1/N) 1 1^T and A_h = A - A_d.

Source: Wang, Zheng, Chen, Wang, "Anti-Oversmoothing in Deep Vision Transformers via the Fourier Domain Analysis", ICLR
2022, section 4.1. Parameter ``attn_scale`` (heads,) on each attention module, starting at 0: the identity.

Applied to the values A_hat V is (1 + w) A V - w mean(V), which holds for every map A, whether its rows sum to 1 or
not, and needs no N x N map, so fused attention stays in use; within the output projection it costs no pass over the
tokens of its own (``folding``). The mean is over all tokens that attention sees: class and register tokens of a ViT,
the tokens of a window in Swin, masked ones included. Attention dropout (0 in all recipes) acts on A before the split;
the authors' release drops entries of A_hat, which has the same expectation.
"""

from typing import Any, Final

from vitaos.techniques.bands import Bands, MapBands
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 40


def map_bands(attention: Any) -> Bands:
    """The high frequencies of every head's map gain w."""
    return Bands(high=attention.attn_scale)


def _fill(sites: list[Site]) -> None:
    for site in sites:
        site.attention.attn_scale = site.parameter(site.num_heads)
        fill(site.attention, "operators", _PRIORITY, MapBands(map_bands))


ATTNSCALE: Final = Technique(
    name="attnscale",
    summary="re-scales the high-pass part of every head's attention map by 1 + w",
    fill=_fill,
    identity={"attn_scale": 0},
    parameters=("attn_scale",),
)
