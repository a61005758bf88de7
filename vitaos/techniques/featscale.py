"""FeatScale: Y_hat = Y + s * DC[Y] + t * HC[Y] on the output Y of the attention branch, channel by channel.

Source: Wang, Zheng, Chen, Wang, "Anti-Oversmoothing in Deep Vision Transformers via the Fourier Domain Analysis", ICLR
2022, section 4.2. Parameters ``feat_scale_dc`` = s and ``feat_scale_hf`` = t, (C,) on each block, starting at 0: the
identity. The options ``dc`` and ``hf`` start them elsewhere, which the paper does not: s near -1 takes the mean that
makes tokens alike out of the branch, and training from 0 hardly moves s (``docs/results.md``).

Equally Y_hat = (1 + t) Y + (s - t) mean(Y), after the output projection and its dropout, before LayerScale, drop path
and the residual sum. The mean is over all tokens (Swin: all tokens of the map, after the windows are merged and
un-shifted). Where no dropout acts on Y it is computed within the projection (``folding``), else directly; Swin, whose
projection sees windows, computes it directly.

The release's DeiT adds the two terms twice (Y + 2 s DC + 2 t HC), its CaiT and Swin once. Here every backbone adds them
once, and ``release_pace`` lets a ViT's s and t be trained at the pace of the release's 2 s and 2 t: the network and the
meaning of its parameters are the same, the optimizer's rate for them is another (``vitaos.engine.optim``).
"""

from typing import Any, Final

from vitaos.techniques.bands import Bands, TokenBands
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 50
RELEASE_PACE: Final = 2.0
"""How often the release's DeiT adds the two terms: its effective s and t move that many times as fast under Adam."""


def token_bands(block: Any) -> Bands:
    """Channel by channel the direct current gains s, the high frequencies t."""
    return Bands(high=block.feat_scale_hf, direct=block.feat_scale_dc)


def _check(sites: list[Site], release_pace: bool, dc: float, hf: float) -> None:
    if release_pace and sites[0].kind.name != "ViT":
        raise ValueError(
            f"featscale: release_pace is for ViTs: the release's {sites[0].kind.name} adds FeatScale once, as here, so "
            "its pace is the one without the option."
        )


def _fill(sites: list[Site], release_pace: bool, dc: float, hf: float) -> None:
    for site in sites:
        site.block.feat_scale_dc = site.parameter(site.dim, dc)
        site.block.feat_scale_hf = site.parameter(site.dim, hf)
        fill(site.block, "post_attention", _PRIORITY, TokenBands(token_bands))


FEATSCALE: Final = Technique(
    name="featscale",
    summary="re-weighs the direct-current and high-frequency parts of the attention branch, channel by channel",
    fill=_fill,
    check=_check,
    options={"release_pace": False, "dc": 0.0, "hf": 0.0},
    identity={"feat_scale_dc": 0, "feat_scale_hf": 0},
    parameters=("feat_scale_dc", "feat_scale_hf"),
)
