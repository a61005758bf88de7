"""Frequencies of features and of attention maps; definitions and equations in ``docs/analysis.md``.

The paper (Wang et al., ICLR 2022, arXiv 2203.05962, section 2) splits a token matrix X into its direct current
DC[X] = (1/N) 1 1^T X and the rest, HC[X] = X - DC[X], and reads an attention map A as a filter through F A F^-1, F
being the unitary discrete Fourier transform over the N tokens.

Shape suffixes: B images, N tokens, C channels, H heads, G windows of an image, Y rows and X columns of the token grid.
"""

import math

import torch
from torch import Tensor

from vitaos.dtypes import at_least_float32

__all__ = [
    "class_attention_spectrum",
    "feature_amplitude",
    "high_frequency_gain",
    "high_frequency_ratio",
    "response_frequencies",
    "scaled_spectral_response",
    "spectral_response",
]


def high_frequency_ratio(tokens_BNC: Tensor) -> Tensor:
    """||HC[X]||_F / ||DC[X]||_F of every image, shape (B,), float32 or wider.

    0 when all tokens of the image are equal, infinite when their mean is zero.
    """
    tokens = at_least_float32(tokens_BNC)
    mean_B1C = tokens.mean(dim=1, keepdim=True)
    direct_B = mean_B1C.square().sum(dim=(1, 2)) * tokens.shape[1]
    rest_B = (tokens - mean_B1C).square().sum(dim=(1, 2))
    return (rest_B / direct_B).sqrt()


def spectral_response(map_BHNN: Tensor) -> Tensor:
    """Norm of every row of F A F^-1, shape (..., N), zero frequency in the middle.

    Row k answers: how strongly does output frequency k respond to a unit of white input? F^-1 is unitary, so the row
    norms of F A F^-1 are those of F A and one transform is enough; A is real, so frequencies k and -k agree and half
    a transform is enough.

    Args:
        map_BHNN: attention maps (any leading axes), query tokens on the second last axis, key tokens on the last.

    Raises:
        ValueError: if the maps are not square (class attention has one query; see :func:`class_attention_spectrum`).
    """
    half = _output_frequencies(map_BHNN)
    return _unfold(half.norm(dim=-1), map_BHNN.shape[-1])


def scaled_spectral_response(map_BHNN: Tensor, scale_H: Tensor) -> Tensor:
    """:func:`spectral_response` of A_hat = A_d + (1 + w) (A - A_d), A_d = (1/N) 1 1^T, without building A_hat.

    F A_d has a single row, the zero frequency, equal to 1^T / sqrt(N). So every other row of F A is multiplied by 1 +
    w, and the zero row becomes (1 + w) (F A)_0 - w 1^T / sqrt(N).

    Args:
        map_BHNN: maps before AttnScale, heads on the third last axis.
        scale_H: the learned w of each head.
    """
    tokens = map_BHNN.shape[-1]
    half = _output_frequencies(map_BHNN)
    gain_H1 = (1 + scale_H.to(half.real.dtype)).unsqueeze(-1)
    norms = half.norm(dim=-1) * gain_H1.abs()
    zero_row = gain_H1 * half[..., 0, :].real - (gain_H1 - 1) / math.sqrt(tokens)
    norms[..., 0] = zero_row.norm(dim=-1)
    return _unfold(norms, tokens)


def high_frequency_gain(response: Tensor) -> Tensor:
    """Root mean square of a response over all frequencies but zero, shape (...): one number for how much of the
    detail passes.

    1 for a permutation (all-pass), 0 for a uniform map.
    """
    tokens = response.shape[-1]
    squares = response.square().sum(dim=-1) - response[..., tokens // 2].square()
    return (squares.clamp(min=0) / max(tokens - 1, 1)).sqrt()


def class_attention_spectrum(map_BH1N: Tensor) -> Tensor:
    """|a F^-1| of the single row a of a class-attention map, shape (..., N), zero frequency in the middle.

    A map with one query has no output frequencies; what can be read is which frequencies of its input the class token
    listens to.

    Raises:
        ValueError: if the maps have more than one query.
    """
    if map_BH1N.shape[-2] != 1:
        raise ValueError(f"a class-attention map has one query; this one has shape {tuple(map_BH1N.shape)}")
    row = at_least_float32(map_BH1N).squeeze(-2)
    return _unfold(torch.fft.rfft(row, dim=-1, norm="ortho").abs(), row.shape[-1])


def feature_amplitude(tokens_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Amplitude of the two-dimensional unitary Fourier transform of the feature map, mean over channels.

    Args:
        tokens_BNC: patch tokens in row-major order of the grid.
        grid: rows and columns of the token grid.

    Returns:
        (B, Y, X), zero frequency at (Y // 2, X // 2).

    Raises:
        ValueError: if the grid does not hold exactly N tokens.
    """
    images, tokens, channels = tokens_BNC.shape
    rows, columns = grid
    if rows * columns != tokens:
        raise ValueError(f"a grid of {rows} x {columns} holds {rows * columns} tokens, but the features have {tokens}")
    map_BYXC = at_least_float32(tokens_BNC).reshape(images, rows, columns, channels)
    amplitude_BYX = torch.fft.fft2(map_BYXC, dim=(1, 2), norm="ortho").abs().mean(dim=-1)
    return torch.fft.fftshift(amplitude_BYX, dim=(1, 2))


def response_frequencies(tokens: int) -> Tensor:
    """Frequencies of a response in cycles per token, shape (N,), rising, zero in the middle (index N // 2)."""
    return (torch.arange(tokens, dtype=torch.float64) - tokens // 2) / tokens


def _output_frequencies(map_BHNN: Tensor) -> Tensor:
    """Non-negative half of F A along the query axis: (..., N // 2 + 1, N), complex."""
    if map_BHNN.dim() < 2 or map_BHNN.shape[-1] != map_BHNN.shape[-2]:
        raise ValueError(f"the spectral response needs square attention maps; these have shape {tuple(map_BHNN.shape)}")
    return torch.fft.rfft(at_least_float32(map_BHNN), dim=-2, norm="ortho")


def _unfold(half: Tensor, tokens: int) -> Tensor:
    """Frequencies 0..N//2 of a real signal's spectrum to all N, zero in the middle."""
    order = (torch.arange(tokens, device=half.device) - tokens // 2).abs()
    return half[..., order]
