"""The class token's row of an attention map: how much it attends to each token, without the N x N map.

One query against all keys, O(N) beside fused attention. Whoever watches it (:mod:`vitaos.techniques.class_row_watch`)
finds the row of the last block in the record of the forward pass.

Shapes: B images, H heads, N tokens, M tokens attended to (= N), D channels of a head, C channels.
"""

from typing import Any

import torch
from timm.models.cait import ClassAttn
from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.record import PassRecord


def class_row(attention: Any, q_BHND: Tensor, k_BHND: Tensor, added: Tensor | None = None) -> Tensor:
    """The class token's row of the map, averaged over heads; with AttnScale that of A_hat, which can fall below 0.

    Args:
        attention: a slotted attention module.
        q_BHND, k_BHND: its queries and keys, normalized, not scaled.
        added: what is added to the logits, broadcasting to (B, H, N, M), or truth values of what is attended to.

    Returns:
        (B, M), in float32 or wider.
    """
    scores_BH1M = (q_BHND[:, :, :1] * attention.scale) @ k_BHND.transpose(-2, -1)
    if added is not None and added.dtype == torch.bool:
        scores_BH1M = scores_BH1M.masked_fill(~added[..., :1, :], float("-inf"))
    elif added is not None:
        scores_BH1M = scores_BH1M + added[..., :1, :]
    row_BHM = at_least_float32(scores_BH1M).softmax(dim=-1).squeeze(2)
    gain = getattr(attention, "attn_scale", None)
    if gain is not None:
        gain_H1 = at_least_float32(gain).unsqueeze(1)
        row_BHM = (1 + gain_H1) * row_BHM - gain_H1 / row_BHM.shape[-1]
    return row_BHM.mean(dim=1)


@torch.no_grad()
def show_class_row(attention: Any, q_BHND: Tensor, k_BHND: Tensor, added: Tensor | None) -> None:
    """Leave the row in the record, where a training step asks for it; arguments as those of :func:`class_row`."""
    if attention.record.wants_class_row:
        attention.record.class_row_BM = class_row(attention, q_BHND, k_BHND, added)


class WatchedClassAttention(ClassAttn):
    """timm's class attention of CaiT, which leaves its one row in the record of the pass.

    The product q k^T is taken as (q W_k) x^T, which costs H N C in place of the N C^2 of the keys; what their bias adds
    is the same for all tokens and leaves the softmax as it is.
    """

    record: PassRecord

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C), the class token first -> (B, 1, C)."""
        if self.record.wants_class_row:
            self.record.class_row_BM = self.row_of(x)
        attended: Tensor = super().forward(x)
        return attended

    @torch.no_grad()
    def row_of(self, x_BNC: Tensor) -> Tensor:
        """(B, N), the mean over heads."""
        q_BHD = self.q(x_BNC[:, 0]).unflatten(1, (self.num_heads, -1)) * self.scale
        weight_HDC = self.k.weight.unflatten(0, (self.num_heads, -1))
        q_BHC = torch.einsum("bhd,hdc->bhc", q_BHD, weight_HDC.to(q_BHD.dtype))
        scores_BHN = q_BHC @ x_BNC.to(q_BHC.dtype).transpose(1, 2)
        return at_least_float32(scores_BHN).softmax(dim=-1).mean(dim=1)
