"""FDAM's attention inversion: (1 + g_l tanh(W_l u)) A V + g_h h(W_h u) (V - A V), AttnScale with gains by token.

Source: Chen, Gu, Zheng, Fu, "Frequency-Dynamic Attention Modulation for Dense Prediction", ICCV 2025 (arXiv
2507.12006), as in the authors' code: u = relu(x)^2 of what attention is given, h(z) = 2 s^2 / (s^2 + 1/e) with s =
softplus(z), one gain for each token and head by W (C -> heads, with bias), and g (C,) for each channel of the heads'
output. A V is attention's low-pass output, V - A V its complement. Modules ``fdam_low`` = W_l and ``fdam_high`` = W_h,
parameters ``fdam_low_gain`` = g_l and ``fdam_high_gain`` = g_h on each attention module.

g starts at 0, the identity; the authors' code starts it at 1e-5 (option ``gain``), and gives relu(x)^2 a scale and a
bias of its own, which W and its bias hold already. W starts as timm's linear layers do. The paper's other half,
re-weighed frequencies of the feature map behind both branches, is ``freqscale``. Fused attention stays in use. In Swin,
tokens are those of the window.
"""

from typing import Any, Final

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 40
_HALF: Final = 0.36787944117144233  # 1/e: where h is 1


def modulate(attention: Any, x_BNC: Tensor, v_BHND: Tensor, z_BHND: Tensor) -> Tensor:
    """Weigh what the heads give and what they filtered out, token by token."""
    u_BNC, shape_H1D = F.relu(x_BNC).square(), (z_BHND.shape[1], 1, -1)
    low_BHN1 = at_least_float32(attention.fdam_low(u_BNC)).transpose(1, 2).unsqueeze(-1)
    high_BHN1 = at_least_float32(attention.fdam_high(u_BNC)).transpose(1, 2).unsqueeze(-1)
    # Contiguous: of others torch.compile mistakes the memory order of softplus's gradient, on the CPU (torch 2.15).
    high_BHN1 = high_BHN1.contiguous()
    low_gain_H1D = at_least_float32(attention.fdam_low_gain).view(shape_H1D)
    high_gain_H1D = at_least_float32(attention.fdam_high_gain).view(shape_H1D)
    square_BHN1 = F.softplus(high_BHN1).square()
    opened_BHN1 = 2 * square_BHN1 / (square_BHN1 + _HALF)
    wide_BHND = at_least_float32(z_BHND)
    low_BHND = wide_BHND * (1 + low_gain_H1D * low_BHN1.tanh())
    return (low_BHND + high_gain_H1D * opened_BHN1 * (v_BHND - wide_BHND)).to(z_BHND.dtype)


def _fill(sites: list[Site], gain: float) -> None:
    for site in sites:
        attention, width = site.attention, site.attention.proj.in_features
        for name in ("fdam_low", "fdam_high"):
            weights = site.linear(site.num_heads)
            trunc_normal_(weights.weight, std=0.02)
            setattr(attention, name, weights)
            setattr(attention, f"{name}_gain", site.parameter(width, gain))
        fill(attention, "heads", _PRIORITY, modulate)


FDAM: Final = Technique(
    name="fdam",
    summary="weighs what attention lets through and what it filters out by gains that each token sets",
    fill=_fill,
    identity={"fdam_low_gain": 0, "fdam_high_gain": 0},
    parameters=(
        "fdam_low.weight",
        "fdam_low.bias",
        "fdam_high.weight",
        "fdam_high.bias",
        "fdam_low_gain",
        "fdam_high_gain",
    ),
    options={"gain": 0.0},
)
