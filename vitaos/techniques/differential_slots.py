"""Slots in timm's differential attention (``attn_layer="diff"`` of a ViT): see ``slots``.

Source: Ye et al., "Differential Transformer", ICLR 2025 (arXiv 2410.05258). A head's map is A = A_1 - lambda A_2, the
maps of two halves of its queries and keys; what A makes of the values is normalized by head and scaled by
1 - lambda_init. Operators act on A, before that norm: AttnScale is A_d + (1 + w_h)(A - A_d) with A_d = (1/N) 1 1^T, as
everywhere, although the rows of A sum to 1 - lambda. Both maps stay within fused attention.
"""

from functools import partial

from timm.layers import DiffAttention
from torch import Tensor

from vitaos.techniques.bands import Bands
from vitaos.techniques.folding import project
from vitaos.techniques.slot_calls import (
    Attend,
    AttentionSlots,
    added_to_scores,
    attend_fused,
    masked,
    mix_values,
)


class SlottedDiffAttention(AttentionSlots, DiffAttention):
    """timm's differential attention with slots; H heads of D channels, whose two maps have D / 2 channels each."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, *, bands: Bands | None = None
    ) -> Tensor:
        """x: (B, N, C) -> (B, N, C); arguments as ``slots.SlottedAttention``'s."""
        B, N, _ = x.shape
        q_BNC, k_BNC, v_BNC = self.qkv(x).chunk(3, dim=2)
        pairs = B, N, 2 * self.num_heads, self.head_dim  # both queries of a head side by side
        q_BPND = self.q_norm(q_BNC.reshape(pairs).transpose(1, 2))
        k_BPND = self.k_norm(k_BNC.reshape(pairs).transpose(1, 2))
        v_BHND = v_BNC.reshape(B, N, self.num_heads, 2 * self.head_dim).transpose(1, 2)
        added = added_to_scores(self, q_BPND, k_BPND)
        if added is not None:
            attn_mask, is_causal = masked(added, attn_mask, is_causal, N), False
        weight = self._compute_lambda().type_as(q_BPND)
        if self.fused_attn:
            one, other = (
                partial(attend_fused, self, q_BHND, k_BHND, mask=attn_mask, is_causal=is_causal)
                for q_BHND, k_BHND in zip(_halves(q_BPND), _halves(k_BPND), strict=True)
            )
            attend: Attend = partial(_difference, one, other, weight)
        else:
            scores_BPNM = masked((q_BPND * self.scale) @ k_BPND.transpose(-2, -1), attn_mask, is_causal, N)
            one_BHNM, other_BHNM = _halves(self.attn_drop(scores_BPNM.softmax(dim=-1)))
            attend = (one_BHNM - weight * other_BHNM).matmul
        z_BNC, _ = mix_values(self, x, attend, v_BHND)
        z_BNHD = self.sub_norm(z_BNC.unflatten(2, (self.num_heads, -1))) * (1 - self.lambda_init)
        return self.proj_drop(project(self, self.norm(z_BNHD.flatten(2)), v_BHND, None, bands))


def _halves(pairs_BPXY: Tensor) -> tuple[Tensor, ...]:
    """(B, 2 H, X, Y) -> two of (B, H, X, Y)."""
    return pairs_BPXY.unflatten(1, (-1, 2)).unbind(2)


def _difference(one: Attend, other: Attend, weight: Tensor, v_BHND: Tensor) -> Tensor:
    return one(v_BHND) - weight * other(v_BHND)
