"""The names of the techniques, for whoever needs no more than those: the command line's help must not import torch."""

from typing import Final

TECHNIQUE_NAMES: Final = (
    "attnscale",
    "featscale",
    "layerscale",
    "contranorm",
    "neutreno",
    "gfsa",
    "centered_attention",
    "re_attention",
)
"""In the order of the registry, :data:`vitaos.techniques.TECHNIQUES`."""
