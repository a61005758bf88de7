"""Slots in the attention and blocks of timm's Eva (EVA, EVA-02, DINOv3) and Beit (BEiT, BEiT v2): see ``slots``.

Queries and keys are rotated, or scores have relative position biases, as timm has it; values, maps and branches are
what a ViT's are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor

from vitaos.techniques.folding import bands_of_output, project
from vitaos.techniques.slot_calls import (
    AttentionSlots,
    BlockSlots,
    added_to_scores,
    attend_by_scores,
    check_masks,
    enter,
    leave,
    masked,
    mix_values,
    residual,
    run_slot,
    total_of,
)


class _RotarySlots(AttentionSlots):
    """The forward pass of attention with rotary positions."""

    def forward(
        self: Any,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        bands: Any = None,
    ) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments as timm's, ``bands`` as ``slots.SlottedAttention``'s."""
        N = x.shape[1]
        q_BHND, k_BHND, v_BHND = _queries_keys_values(self, x)
        q_BHND, k_BHND = self.q_norm(q_BHND), self.k_norm(k_BHND)
        if rope is not None:
            q_BHND, k_BHND = (_rotated(self, part, rope).type_as(v_BHND) for part in (q_BHND, k_BHND))
        groups = getattr(self, "num_kv_groups", 1)
        if groups > 1:
            k_BHND, v_BHND = (part.repeat_interleave(groups, dim=1) for part in (k_BHND, v_BHND))
        added = added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            attn_mask, is_causal = masked(added, attn_mask, is_causal, N), False
        attend = attend_by_scores(self, q_BHND, k_BHND, mask=attn_mask, is_causal=is_causal)
        z_BNC, of_map = mix_values(self, x, attend, v_BHND)
        z_BNC = self.norm(z_BNC)
        if self.gate is not None:
            z_BNC = z_BNC * self.gate(x).sigmoid()
        projected: Tensor = self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))
        return projected


class SlottedEvaAttention(_RotarySlots, EvaAttention):
    """timm's attention of Eva, with slots."""


class SlottedRopeAttention(_RotarySlots, AttentionRope):
    """timm's attention with rotary positions of its rope ViTs and PE, with slots; heads may share keys and values."""


class SlottedBeitAttention(AttentionSlots, BeitAttention):
    """timm's attention of BEiT, with relative position biases, with slots."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None, *, bands: Any = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments as timm's, ``bands`` as ``slots.SlottedAttention``'s."""
        q_BHND, k_BHND, v_BHND = _queries_keys_values(self, x)
        bias = total_of(
            self._get_rel_pos_bias() if self.relative_position_bias_table is not None else None,
            shared_rel_pos_bias,
            added_to_scores(self, q_BHND, k_BHND),
        )
        attend = attend_by_scores(self, q_BHND, k_BHND, mask=bias)
        z_BNC, of_map = mix_values(self, x, attend, v_BHND)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class _SlottedGammaBlock(BlockSlots):
    """The forward pass of a pre-norm block whose LayerScale is a parameter, or None."""

    def forward(self: Any, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments (rotations, biases, masks) go to the attention."""
        enter(self)
        check_masks(self, (*args, *keywords.values()))
        post_attention, bands = bands_of_output(self)
        if bands is not None:
            keywords["bands"] = bands
        y_BNC = self.attn(self.norm1(run_slot(self.pre_norm, self, x)), *args, **keywords)
        x = residual(self.skip_gain, x, self.drop_path1(_scaled(self.gamma_1, run_slot(post_attention, self, y_BNC))))
        x = run_slot(self.tokens, self, x)
        y_BNC = self.mlp(self.norm2(run_slot(self.pre_norm, self, x)))
        return leave(self, x + self.drop_path2(_scaled(self.gamma_2, y_BNC)))


class SlottedEvaBlock(_SlottedGammaBlock, EvaBlock):
    """timm's pre-norm block of Eva with slots."""


class SlottedBeitBlock(_SlottedGammaBlock, BeitBlock):
    """timm's block of BEiT with slots."""


def _queries_keys_values(attention: Any, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As timm computes them: from one weight with biases of queries and values alone, or from three."""
    B, N, _ = x_BNC.shape
    if attention.qkv is None:
        own, shared = attention.num_heads, getattr(attention, "num_kv_heads", attention.num_heads)
        q, k, v = (
            projected(x_BNC).reshape(B, N, heads, -1).transpose(1, 2)
            for projected, heads in ((attention.q_proj, own), (attention.k_proj, shared), (attention.v_proj, shared))
        )
        return q, k, v
    if getattr(attention, "q_bias", None) is None:
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


def _scaled(gamma: Tensor | None, y_BNC: Tensor) -> Tensor:
    return y_BNC if gamma is None else gamma * y_BNC
