"""How alike tokens and attention maps are; definitions and equations in ``docs/analysis.md``.

Shape suffixes: L layers, B images, N tokens, C channels, D entries of a flattened map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["effective_rank", "map_similarity", "token_similarity"]


def token_similarity(tokens_BNC: Tensor) -> Tensor:
    """Mean cosine similarity over all pairs of different tokens of every image, shape (B,).

    With unit tokens u_i the sum over all ordered pairs is ||sum_i u_i||^2 and the pairs of a token with itself
    contribute sum_i ||u_i||^2, so no N x N matrix is needed. A token of norm zero counts as orthogonal to every
    other.

    Raises:
        ValueError: if an image has fewer than two tokens.
    """
    tokens = tokens_BNC if tokens_BNC.dtype == torch.float64 else tokens_BNC.float()
    count = tokens.shape[1]
    if count < 2:
        raise ValueError(f"token similarity needs at least two tokens; the features have {count}")
    # Each by its largest entry first: squares of very small ones would be 0, and the quotient anything.
    largest_BN1 = tokens.abs().amax(dim=-1, keepdim=True)
    unit_BNC = F.normalize(tokens / torch.where(largest_BN1 > 0, largest_BN1, 1.0), dim=-1)
    total_B = unit_BNC.sum(dim=1).square().sum(dim=-1)
    own_B = unit_BNC.square().sum(dim=(1, 2))
    return (total_B - own_B) / (count * (count - 1))


def effective_rank(tokens_BNC: Tensor) -> Tensor:
    """exp of the entropy of the normalized singular values of every image's token matrix, shape (B,), float64.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007. It is 1 when all tokens are multiples of one vector
    and min(N, C) when all singular values are equal. The singular values come from the Gram matrix of the shorter
    side in double precision: their error, about 1e-8 of the largest, is far below the spread between images.
    """
    tokens = tokens_BNC.double()
    wide = tokens.shape[1] <= tokens.shape[2]
    gram = tokens @ tokens.mT if wide else tokens.mT @ tokens
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(share).sum(dim=-1).exp()


def map_similarity(maps_LBD: Tensor) -> Tensor:
    """Cosine similarity of the flattened attention maps of every pair of layers, of every image: (B, L, L)."""
    unit_LBD = F.normalize(maps_LBD.float(), dim=-1)
    return torch.einsum("lbd,mbd->blm", unit_LBD, unit_LBD)
