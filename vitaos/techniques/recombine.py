"""The one formula behind AttnScale and FeatScale: weigh a token matrix and its token mean."""

import torch
from torch import Tensor

from vitaos.dtypes import wide_dtype


def recombine(y: Tensor, mean: Tensor, gain: Tensor | float, mean_weight: Tensor | float) -> Tensor:
    """gain * y + mean_weight * mean, in float32 at least, returned in the dtype of y.

    One pass over memory (``addcmul``): the two weighed parts HC = y - mean and DC = mean are never formed. Gains near 1
    would lose most of their learned digits in bfloat16, hence the wider arithmetic.

    Args:
        y: tokens, (..., N, K).
        mean: mean over the tokens of y or of what y was computed from, (..., 1, K).
        gain: broadcast against y.
        mean_weight: broadcast against mean.
    """
    if not isinstance(gain, Tensor):
        return (y + mean_weight * mean if gain == 1 else gain * y + mean_weight * mean).to(y.dtype)
    return torch.addcmul(mean_weight * mean, y, gain).to(y.dtype)


def token_mean(x: Tensor, sizes_BN: Tensor | None = None) -> Tensor:
    """DC[x] as one row, in float32 or wider: the mean over the tokens, (B, ..., N, K) -> (B, ..., 1, K).

    A sum divided afterwards, not ``mean``, whose backward pass would write a tensor of the size of x.

    Args:
        x: tokens.
        sizes_BN: how many tokens each of them stands for, where some were merged (``record.sizes_of``).
    """
    if sizes_BN is not None:
        shares_BN = sizes_BN / sizes_BN.sum(dim=-1, keepdim=True)
        shares = shares_BN.view(x.shape[0], *[1] * (x.dim() - 3), -1, 1)
        return (x * shares).sum(dim=-2, keepdim=True, dtype=wide_dtype(x.dtype))
    return x.sum(dim=-2, keepdim=True, dtype=wide_dtype(x.dtype)) / x.shape[-2]
