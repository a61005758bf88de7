"""Slots in the attention and blocks of timm's Eva (EVA, EVA-02, DINOv3) and Beit (BEiT, BEiT v2): see ``slots``.

Queries and keys are rotated, or scores have relative position biases, as timm has it; values, maps and branches are
what a ViT's are.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor

from vitaos.techniques.folding import bands_of_map, bands_of_output, project
from vitaos.techniques.record import PassRecord
from vitaos.techniques.slots import (
    Attend,
    Slot,
    _added_to_scores,
    _attend_with_map,
    _check_masks,
    _enter,
    _leave,
    _masked,
    _residual,
    _run,
    _run_heads,
    _run_operators,
)


class SlottedEvaAttention(EvaAttention):
    """timm's attention with rotary positions, with slots."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    record: PassRecord | None = None
    heads: Slot = ()

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        bands: Any = None,
    ) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments as timm's, ``bands`` as ``slots.SlottedAttention``'s."""
        B, N, _ = x.shape
        q_BHND, k_BHND, v_BHND = _queries_keys_values(self, x)
        q_BHND, k_BHND = self.q_norm(q_BHND), self.k_norm(k_BHND)
        if rope is not None:
            q_BHND, k_BHND = (_rotated(self, part, rope).type_as(v_BHND) for part in (q_BHND, k_BHND))
        added = _added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            attn_mask, is_causal = _masked(added, attn_mask, is_causal, N), False
        if self.fused_attn and not self.maps:
            attend: Attend = partial(_attend_fused, self, q_BHND, k_BHND, mask=attn_mask, is_causal=is_causal)
        else:
            scores_BHNM = (q_BHND * self.scale) @ k_BHND.transpose(-2, -1)
            attend = _attend_with_map(self, _masked(scores_BHNM, attn_mask, is_causal, N))
        operators, of_map = bands_of_map(self)
        z_BHND = _run_heads(self, x, v_BHND, _run_operators(operators, self, attend, v_BHND))
        z_BNC = self.norm(z_BHND.transpose(1, 2).reshape(B, N, -1))
        if self.gate is not None:
            z_BNC = z_BNC * self.gate(x).sigmoid()
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class SlottedBeitAttention(BeitAttention):
    """timm's attention of BEiT, with relative position biases, with slots."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    record: PassRecord | None = None
    heads: Slot = ()

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None, *, bands: Any = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments as timm's, ``bands`` as ``slots.SlottedAttention``'s."""
        B, N, _ = x.shape
        q_BHND, k_BHND, v_BHND = _queries_keys_values(self, x)
        bias = _sum(
            self._get_rel_pos_bias() if self.relative_position_bias_table is not None else None,
            shared_rel_pos_bias,
            _added_to_scores(self, q_BHND, k_BHND),
        )
        if self.fused_attn and not self.maps:
            attend: Attend = partial(_attend_fused, self, q_BHND, k_BHND, mask=bias)
        else:
            scores_BHNM = (q_BHND * self.scale) @ k_BHND.transpose(-2, -1)
            attend = _attend_with_map(self, scores_BHNM if bias is None else scores_BHNM + bias)
        operators, of_map = bands_of_map(self)
        z_BHND = _run_heads(self, x, v_BHND, _run_operators(operators, self, attend, v_BHND))
        z_BNC = z_BHND.transpose(1, 2).reshape(B, N, -1)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class _SlottedGammaBlock:
    """The forward pass of a pre-norm block whose LayerScale is a parameter, or None."""

    pre_norm: Slot
    post_attention: Slot
    tokens: Slot = ()
    losses: Slot = ()
    record: PassRecord | None = None
    place: int = 0
    skip_gain: float

    def forward(self: Any, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments (rotations, biases, masks) go to the attention."""
        _enter(self)
        _check_masks(self, (*args, *keywords.values()))
        post_attention, bands = bands_of_output(self)
        if bands is not None:
            keywords["bands"] = bands
        y_BNC = self.attn(self.norm1(_run(self.pre_norm, self, x)), *args, **keywords)
        x = _residual(self.skip_gain, x, self.drop_path1(_scaled(self.gamma_1, _run(post_attention, self, y_BNC))))
        x = _run(self.tokens, self, x)
        y_BNC = self.mlp(self.norm2(_run(self.pre_norm, self, x)))
        return _leave(self, x + self.drop_path2(_scaled(self.gamma_2, y_BNC)))


class SlottedEvaBlock(_SlottedGammaBlock, EvaBlock):
    """timm's pre-norm block of Eva with slots."""


class SlottedBeitBlock(_SlottedGammaBlock, BeitBlock):
    """timm's block of BEiT with slots."""


def _queries_keys_values(attention: Any, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As timm computes them: from one weight with biases of queries and values alone, or from three."""
    B, N, _ = x_BNC.shape
    if attention.qkv is None:
        q, k, v = (
            projected(x_BNC).reshape(B, N, attention.num_heads, -1).transpose(1, 2)
            for projected in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return q, k, v
    if attention.q_bias is None:
        qkv = attention.qkv(x_BNC)
    else:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        if attention.qkv_bias_separate:
            qkv = attention.qkv(x_BNC) + bias
        else:
            qkv = F.linear(x_BNC, weight=attention.qkv.weight, bias=bias)
    q, k, v = qkv.reshape(B, N, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _rotated(attention: Any, x_BHND: Tensor, rope: Tensor) -> Tensor:
    prefix = attention.num_prefix_tokens
    patches = apply_rot_embed_cat(x_BHND[:, :, prefix:], rope, half=getattr(attention, "rotate_half", False))
    return torch.cat([x_BHND[:, :, :prefix], patches], dim=2)


def _attend_fused(
    attention: Any, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, *, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, mask, dropout, is_causal)


def _sum(*terms: Tensor | None) -> Tensor | None:
    total: Tensor | None = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def _scaled(gamma: Tensor | None, y_BNC: Tensor) -> Tensor:
    return y_BNC if gamma is None else gamma * y_BNC
