"""Gated attention: Y_h * 2 sigmoid(x W_h + b_h): a gate on what every head gives, opened by the token that asks.

Source: Qiu et al., "Gated Attention for Large Language Models", 2025 (arXiv 2505.06708), which places a sigmoid behind
scaled dot-product attention and in front of the output projection, one gate a head or one a channel (``elementwise``).
Module ``output_gate`` = W, b on each attention module, (C -> heads) or (C -> heads x head channels).

W and b start at 0 and the factor 2 is ours: so the gate starts at 1, the identity, where theirs starts near 1/2. x is
what the attention module is given, behind the norm. Fused attention stays in use. timm's ``Attention(gated=True)`` is
the elementwise form without the factor; no keyword of a model reaches it.
"""

from typing import Any, Final

from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 50


def gate_heads(attention: Any, x_BNC: Tensor, _: Tensor, z_BHND: Tensor) -> Tensor:
    """Multiply what every head gives a token by the gate that this token opens."""
    logits_BNHD: Tensor = attention.output_gate(x_BNC).unflatten(-1, (z_BHND.shape[1], -1))
    gate_BHND = 2 * at_least_float32(logits_BNHD).sigmoid().transpose(1, 2)
    return (z_BHND * gate_BHND).to(z_BHND.dtype)


def _fill(sites: list[Site], elementwise: bool) -> None:
    for site in sites:
        outputs = site.attention.proj.in_features if elementwise else site.num_heads
        site.attention.output_gate = site.linear(outputs)
        fill(site.attention, "heads", _PRIORITY, gate_heads)


GATED_ATTENTION: Final = Technique(
    name="gated_attention",
    summary="multiplies what every head gives by a gate that the token opens",
    fill=_fill,
    identity={"output_gate.weight": 0, "output_gate.bias": 0},
    parameters=("output_gate.weight", "output_gate.bias"),
    options={"elementwise": False},
)
