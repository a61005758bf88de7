"""ContraNorm: x - s softmax(x x^T / tau) x, then LayerNorm: tokens are pushed away from the tokens they resemble.

Source: Guo, Wang, Du, Wang, "ContraNorm: A Contrastive Learning Perspective on Oversmoothing and Beyond", ICLR 2023,
section 4; placed as in the authors' ViT code: in front of the LayerNorm of both branches of every block (their code
also replaces the model's last LayerNorm, here left alone), with similarities taken between tokens of unit length
(``normalize``; off gives the formula to the letter, where the softmax is nearly one-hot at usual widths). The default
``scale`` of 0.1 is ours; theirs is 0, off. No parameters.

A merged token counts as often as its size says.

Not the identity at the start unless ``scale`` = 0. softmax(x x^T / tau) x is fused attention with one head, queries and
keys being the tokens: the CPU's fused kernel never stores the similarity map; whether CUDA's takes one head as wide as
the model is torch's to choose (flash attention stops at 256 channels a head).
"""

from functools import partial
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from vitaos.techniques.record import log_sizes
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_STRONGEST: Final = 100  # far beyond any published value
_PRIORITY: Final = 10


def repel_tokens(block: Any, x_BNC: Tensor, *, scale: float, temperature: float, normalize: bool) -> Tensor:
    """Subtract from every token what it shares with the tokens that resemble it."""
    key_B1NC = (F.normalize(x_BNC, dim=-1) if normalize else x_BNC).unsqueeze(1)
    shared_B1NC = F.scaled_dot_product_attention(
        key_B1NC, key_B1NC, x_BNC.unsqueeze(1), log_sizes(block, key_B1NC), scale=1 / temperature
    )
    return x_BNC - scale * shared_B1NC.squeeze(1)


def _check(_: list[Site], scale: float, temperature: float, normalize: bool) -> None:
    if not 0 <= scale <= _STRONGEST:
        raise ValueError(f"contranorm: scale must be between 0 (off) and {_STRONGEST}, not {scale}.")
    if temperature <= 0:
        raise ValueError(f"contranorm: temperature must be positive, not {temperature}.")


def _fill(sites: list[Site], scale: float, temperature: float, normalize: bool) -> None:
    for site in sites:
        repel = partial(repel_tokens, scale=scale, temperature=temperature, normalize=normalize)
        fill(site.block, "pre_norm", _PRIORITY, repel)


CONTRANORM: Final = Technique(
    name="contranorm",
    summary="pushes tokens away from the tokens they resemble, before every LayerNorm of a block",
    fill=_fill,
    start="x - scale softmax(x x^T / temperature) x before both norms",
    check=_check,
    options={"scale": 0.1, "temperature": 1.0, "normalize": True},
    refuses={"Swin": "it compares all tokens of an image, 3136 in Swin's first stage, which windows exist to avoid"},
)
