"""A product whose tokens are re-weighed by band, with a gradient made of one product: for compiled code.

With tokens z (B, N, K), a weight P (C, K), and for each channel a gain g and a weight m of the mean,

    y = z (g P)^T + m mean(z P^T) + v,    v being a vector an image.

Differentiated step by step, the gradient of z is the product G (g P), to which one vector an image is added in a kernel
of its own, since a library's product takes no such vector: one more tensor read and written. Both have P on their
right, however:

    (g G + m/N sum(G)) P,

sums being over an image's tokens. G is read for its sum anyway, which is the gradient of v; the kernel that does
(``band_kernel``) writes the bracket, and the product is the gradient. Exact at every g, 0 included.

These are operators, so that a pass over graphs of PyTorch's functions sees one node, and Inductor a kernel that it need
not write. ``banded_product`` is differentiated and compiled as the operations below.
"""

import importlib.util
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.dtypes import no_autocast, wide_dtype
from vitaos.techniques.recombine import token_mean

ALL_TOKENS: Final = -1

_LIBRARY: Final = torch.library.Library("vitaos", "FRAGMENT")
_LIBRARY.define(
    "banded_product(Tensor z, Tensor weight, Tensor gain, Tensor low, Tensor vector, *, int token=-1) -> Tensor"
)
_LIBRARY.define(
    "banded_gradient(Tensor gradient, Tensor gain, Tensor low) -> (Tensor, Tensor)",
    tags=(torch.Tag.flexible_layout,),  # a layout would be asked for by a copy
)


def banded_product(z_BNK: Tensor, weight: Tensor, gain: Tensor, low: Tensor, vector_BC: Tensor) -> Tensor:
    """y as above, of z's type.

    Args:
        z_BNK: tokens.
        weight: P (C, K); in float32 or wider, as all below.
        gain: g (C,).
        low: m (C,).
        vector_BC: v.
    """
    y_BNC: Tensor = torch.ops.vitaos.banded_product.default(z_BNK, weight, gain, low, vector_BC)
    return y_BNC


class _BandedProduct(torch.autograd.Function):
    """z, P, g, m, v -> y."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, z_BNK: Tensor, weight: Tensor, gain: Tensor, low: Tensor, vector_BC: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z_BNK, weight, gain, low)
        return _product(z_BNK, weight, gain, low, vector_BC)

    @staticmethod
    def backward(ctx: Any, gradient_BNC: Tensor) -> tuple[Tensor, ...]:
        z_BNK, weight, gain, low = ctx.saved_tensors
        with no_autocast(z_BNK.device.type):
            banded_BNC, sum_B1C = _banded_gradient(gradient_BNC, gain, low)
            sum_BC = sum_B1C.squeeze(1)
            to_z = F.linear(banded_BNC, weight.to(z_BNK.dtype).T)
            to_folded = (gradient_BNC.flatten(0, 1).T @ z_BNK.flatten(0, 1)).to(weight.dtype)
            to_mean = sum_BC.T @ token_mean(z_BNK).squeeze(1)  # of m P
            to_weight = to_folded * gain.unsqueeze(1) + to_mean * low.unsqueeze(1)
            to_gain, to_low = (to_folded * weight).sum(1), (to_mean * weight).sum(1)
        return to_z, to_weight, to_gain, to_low, sum_BC


def _product(
    z_BNK: Tensor, weight: Tensor, gain: Tensor, low: Tensor, vector_BC: Tensor, *, token: int = ALL_TOKENS
) -> Tensor:
    """For all tokens, or for one, (B, 1, C); the mean is over all."""
    asked = z_BNK if token == ALL_TOKENS else z_BNK[:, token : token + 1]
    vector_BC = vector_BC + low * F.linear(token_mean(z_BNK).squeeze(1), weight)
    y_BNC = F.linear(asked, (weight * gain.unsqueeze(1)).to(z_BNK.dtype))
    return (y_BNC + vector_BC.unsqueeze(1)).to(z_BNK.dtype)


def _differentiable(
    z_BNK: Tensor, weight: Tensor, gain: Tensor, low: Tensor, vector_BC: Tensor, *, token: int = ALL_TOKENS
) -> Tensor:
    if token != ALL_TOKENS:
        return _product(z_BNK, weight, gain, low, vector_BC, token=token)
    y_BNC: Tensor = _BandedProduct.apply(z_BNK, weight, gain, low, vector_BC)
    return y_BNC


def _banded_gradient(gradient_BNC: Tensor, gain: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """(g G + m/N sum(G), sum(G)): of G's type (B, N, C), and (B, 1, C) in float32 or wider."""
    in_kernel = gradient_BNC.is_cuda and gradient_BNC.dtype != torch.float64
    if in_kernel and importlib.util.find_spec("triton") is not None:
        banded_BNC, sum_B1C = torch.ops.vitaos.banded_gradient.default(gradient_BNC, gain, low)
        return banded_BNC, sum_B1C
    sum_B1C = gradient_BNC.sum(1, keepdim=True, dtype=wide_dtype(gradient_BNC.dtype))
    banded_BNC = torch.addcmul((low / gradient_BNC.shape[1]) * sum_B1C, gradient_BNC, gain)
    return banded_BNC.to(gradient_BNC.dtype), sum_B1C


def _launch(gradient_BNC: Tensor, gain: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    from vitaos.techniques.band_kernel import band  # noqa: PLC0415 - Triton only where it is used

    return band(gradient_BNC, gain, low)


def _shapes(gradient_BNC: Tensor, gain: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    B, N, C = gradient_BNC.shape
    return gradient_BNC.new_empty(B, N, C), gradient_BNC.new_empty(B, 1, C, dtype=torch.float32)


_LIBRARY.impl("banded_product", _differentiable, "CompositeImplicitAutograd")
_LIBRARY.impl("banded_gradient", _launch, "CUDA")
_LIBRARY.impl("banded_gradient", _shapes, "Meta")
