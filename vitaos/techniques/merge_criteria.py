"""What pairs of tokens are chosen by: criteria of ``token_merging``.

keys    ToMe: the cosine of keys, averaged over heads.
mctf    MCTF (Lee, Choi, Kim, CVPR 2024, arXiv 2403.10030, section 3): W = ((cos(x_a, x_b) + 1) / 2) (i_a i_b)^(1/20)
        (z_a z_b)^(1/40), i one over the attention that a token receives on average, z one over its size, each over its
        greatest. From a to b and then from b to what is left of a, half of the merges each. Its one-step-ahead
        attention and its training with a teacher are not part of this. Queries and keys are multiplied once more.
hf      high-frequency energy ||x - mean||: of the tokens at even positions those with the least merge, each into the
        one of most similar keys. After "Frequency-aware token reduction" (arXiv 2511.21477), of which only the abstract
        was at hand: it parts tokens by this paper's two bands; the pairing is ours.
random  pseudo-random pairs, the same for every image: what a criterion is to be better than.
"""

from typing import Any, Final

import torch
from torch import Tensor

from vitaos.dtypes import at_least_float32, no_autocast
from vitaos.techniques.recombine import token_mean
from vitaos.techniques.record import PassRecord, log_sizes, sizes_of
from vitaos.techniques.token_matching import Sides, cosine

CRITERIA: Final = ("keys", "mctf", "hf", "random")
_INFORMATION: Final = 1 / 20
_SIZE: Final = 1 / 40


@torch.no_grad()
def look_at_attention(attention: Any, q_BHND: Tensor, k_BHND: Tensor, *, criterion: str) -> None:
    """Leave in the record what the block's criterion needs of queries and keys; adds nothing to the logits."""
    if criterion == "mctf":
        map_BHNM = attention_map(attention, q_BHND, k_BHND)
        attention.record.seen["received"] = token_mean(map_BHNM.mean(dim=1), sizes_of(attention)).transpose(1, 2)
    elif criterion != "random":
        attention.record.seen["keys"] = k_BHND.mean(dim=1)


def attention_map(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> Tensor:
    """The softmax of the logits, in float32 at least, merged tokens counted by their size."""
    with no_autocast(q_BHND.device.type):
        q_BHND, k_BHND = at_least_float32(q_BHND), at_least_float32(k_BHND)
        scores_BHNM = (q_BHND * attention.scale) @ k_BHND.transpose(-2, -1)
        sizes = log_sizes(attention, scores_BHNM)
        return (scores_BHNM if sizes is None else scores_BHNM + sizes).softmax(dim=-1)


@torch.no_grad()
def score_pairs(record: PassRecord, x_BNC: Tensor, sides: Sides, criterion: str) -> tuple[Tensor, Tensor | None]:
    """(B, a, b): the score of every pair; and (B, a), which tokens merge first, where that is not their best score."""
    if criterion == "mctf":
        return _mctf_score(record, x_BNC, sides), None
    metric_BNK = _scattered(x_BNC) if criterion == "random" else record.seen["keys"]
    score_Bab = cosine(metric_BNK, sides)
    if criterion != "hf":
        return score_Bab, None
    energy_BN = (at_least_float32(x_BNC) - token_mean(x_BNC, record.sizes_BN)).norm(dim=-1)
    return score_Bab, -energy_BN[:, sides.a]


def _mctf_score(record: PassRecord, x_BNC: Tensor, sides: Sides) -> Tensor:
    score_Bab = (cosine(x_BNC, sides) + 1) / 2
    factors_BN = [(record.seen["received"].squeeze(2), _INFORMATION)]
    if record.sizes_BN is not None:
        factors_BN.append((record.sizes_BN, _SIZE))
    for value_BN, power in factors_BN:
        inverse_BN = 1 / value_BN.clamp(min=torch.finfo(value_BN.dtype).tiny)
        weight_BN = (inverse_BN / inverse_BN.amax(dim=-1, keepdim=True)) ** power
        score_Bab = score_Bab * weight_BN[:, sides.a].unsqueeze(2) * weight_BN[:, sides.b].unsqueeze(1)
    return score_Bab


def _scattered(x_BNC: Tensor) -> Tensor:
    """Pseudo-random vectors, functions of the position alone."""
    position_N1 = torch.arange(x_BNC.shape[1], device=x_BNC.device, dtype=torch.float64).unsqueeze(1)
    place_1K = torch.arange(1, 9, device=x_BNC.device, dtype=torch.float64)
    vectors_NK = ((position_N1 * 12.9898 + place_1K * 78.233).sin() * 43758.5453) % 1.0 - 0.5
    return vectors_NK.to(torch.float32).expand(x_BNC.shape[0], -1, -1)
