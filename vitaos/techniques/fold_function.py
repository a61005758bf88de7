"""The folded projection on CUDA: the sums of ``folding`` in one launch each, differentiated by hand.

Torch's own operations would need some twenty small launches a block to fold the weights and as many to undo it; two
Triton kernels (``fold_kernels``) need one each. Products and token sums remain torch's. Tested against
``folding.fold_and_project`` by Triton's interpreter; the kernels' values have not been checked on a GPU.
"""

import functools
import importlib.util
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.techniques.bands import Bands, Projection

_MOST_ROWS: Final = 1024  # of image vectors that the backward kernel adds up itself


@functools.cache
def _have_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def applies(z_BNK: Tensor, projection: Projection) -> bool:
    """Whether the kernels can do it: eager on CUDA, in float32 or less, bands as the techniques here give them."""
    weight, _, inner, outer = projection
    if not z_BNK.is_cuda or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if weight.dtype == torch.float64 or not _have_triton() or torch._C._are_functorch_transforms_active():
        return False
    of_map = inner is None or (_is_plain(inner.high) and not isinstance(inner.direct, Tensor))
    return of_map and (outer is None or (_is_plain(outer.high) and _is_plain(outer.direct)))


def _is_plain(weight: Tensor | float) -> bool:
    return type(weight) in {torch.nn.Parameter, Tensor}


def project_fused(z_BNK: Tensor, v_BHND: Tensor, projection: Projection, dtype: torch.dtype) -> Tensor:
    """As :func:`vitaos.techniques.folding.fold_and_project`."""
    weight, bias, inner, outer = projection
    of_heads, direct = (None, 0.0) if inner is None else inner
    high, low = (None, None) if outer is None else outer
    values = None if inner is None else v_BHND
    projected: Tensor = FoldedProjection.apply(z_BNK, values, weight, bias, of_heads, direct, high, low, dtype)
    return projected


class FoldedProjection(torch.autograd.Function):
    """z, V, W, b, w, direct, t, s, dtype -> tokens; see ``folding`` for the formula."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        z_BNK: Tensor,
        v_BHND: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        of_heads: Tensor | None,
        direct: float,
        high: Tensor | None,
        low: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        from vitaos.techniques.fold_kernels import Parts, fold  # noqa: PLC0415 - Triton only where it is used

        with torch.autocast(z_BNK.device.type, enabled=False):
            z_BNK = z_BNK.to(dtype)
            batch, tokens, channels = z_BNK.shape
            folded = fold(Parts(weight, bias, of_heads, direct, high, low), tokens=tokens, dtype=dtype)
            sums = z_BNK.new_empty(batch, folded.of_sums.shape[1], dtype=torch.float32)
            if high is not None:
                torch.sum(z_BNK, dim=1, dtype=torch.float32, out=sums[:, :channels])
            if v_BHND is not None:
                heads, head_dim = v_BHND.shape[1], v_BHND.shape[3]
                torch.sum(v_BHND, dim=2, dtype=torch.float32, out=sums[:, -channels:].unflatten(1, (heads, head_dim)))
            if folded.constant is None:
                vector_BC = sums @ folded.of_sums.T
            else:
                vector_BC = torch.addmm(folded.constant, sums, folded.of_sums.T)
            y_BNC = F.linear(z_BNK, folded.weight, folded.bias).add_(vector_BC.unsqueeze(1))
        ctx.save_for_backward(z_BNK, v_BHND, weight, bias, of_heads, high, low, folded.weight, folded.of_sums, sums)
        ctx.direct, ctx.dtype = direct, dtype
        return y_BNC

    @staticmethod
    def backward(ctx: Any, gradient_BNC: Tensor) -> tuple[Tensor | None, ...]:
        z_BNK, v_BHND, weight, bias, of_heads, high, low, folded, of_sums, sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _backward_to_differentiate(ctx, gradient_BNC)
        from vitaos.techniques.fold_kernels import Parts, unfold  # noqa: PLC0415 - Triton only where it is used

        batch, tokens, channels = z_BNK.shape
        with torch.autocast(z_BNK.device.type, enabled=False):
            vector_BC = gradient_BNC.sum(1, dtype=torch.float32)
            to_sums = vector_BC @ of_sums
            to_z = F.linear(gradient_BNC, folded.T)
            if high is not None:
                to_z.add_(to_sums[:, :channels].unsqueeze(1))
            to_v = None
            if v_BHND is not None:
                one = to_sums[:, -channels:].to(v_BHND.dtype).unflatten(1, (v_BHND.shape[1], -1))
                to_v = one.unsqueeze(2).expand(v_BHND.shape)
            grads = unfold(
                gradient_BNC.reshape(-1, gradient_BNC.shape[-1]).T @ z_BNK.reshape(-1, channels),
                vector_BC.T @ sums,
                vector_BC if batch <= _MOST_ROWS else vector_BC.sum(0, keepdim=True),
                Parts(weight, bias, of_heads, ctx.direct, high, low),
                tokens=tokens,
            )
        return to_z, to_v, grads.weight, grads.bias, grads.of_heads, None, grads.high, grads.low, None


def _backward_to_differentiate(ctx: Any, gradient_BNC: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass that has one of its own (``create_graph=True``), by autograd."""
    from vitaos.techniques.folding import fold_and_project  # noqa: PLC0415 - folding imports this file

    z_BNK, v_BHND, weight, bias, of_heads, high, low, *_ = ctx.saved_tensors
    inner = None if of_heads is None else Bands(of_heads, ctx.direct)
    outer = None if high is None else Bands(high, low)
    inputs = (z_BNK, v_BHND, weight, bias, of_heads, None, high, low, None)
    y_BNC = fold_and_project(z_BNK, v_BHND, Projection(weight, bias, inner, outer), ctx.dtype)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(y_BNC, wanted, gradient_BNC, create_graph=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in inputs)
