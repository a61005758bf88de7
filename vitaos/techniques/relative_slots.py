"""Slots in timm's Swin V2 and ``VisionTransformerRelPos``: see ``slots``.

Scores of Swin V2 are cosines, so its map is always in memory, as timm has it. Blocks whose norm comes after the branch
(Swin V2, and RelPos with ``ResPostRelPosBlock``) have no slot in front of it: ``post_attention`` is what leaves
attention, which the norm then takes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from timm.models.vision_transformer_relpos import RelPosAttention, RelPosBlock, ResPostRelPosBlock
from torch import Tensor

from vitaos.techniques.folding import bands_of_output, project
from vitaos.techniques.slot_calls import (
    AttentionSlots,
    BlockSlots,
    added_to_scores,
    attend_by_scores,
    attend_with_map,
    enter,
    leave,
    mix_values,
    residual,
    run_slot,
    total_of,
)
from vitaos.techniques.slots import SlottedBlock


class SlottedWindowAttentionV2(AttentionSlots, WindowAttentionV2):
    """timm's window attention of Swin V2 with slots; N is the number of tokens of a window, masked ones included."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B * windows, N, C) -> the same; mask: additive (windows, N, N), or None where windows are not shifted."""
        B, N, _ = x.shape
        qkv_3BHND = _qkv(self, x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        scores_BHNM = F.normalize(q_BHND, dim=-1) @ F.normalize(k_BHND, dim=-1).transpose(-2, -1)
        scores_BHNM = scores_BHNM * torch.clamp(self.logit_scale, max=math.log(1.0 / 0.01)).exp()
        scores_BHNM = scores_BHNM + self._position_bias()
        if mask is not None:
            by_image = scores_BHNM.view(-1, mask.shape[0], self.num_heads, N, N)
            scores_BHNM = (by_image + mask.unsqueeze(1).unsqueeze(0)).view(-1, self.num_heads, N, N)
        z_BNC, of_map = mix_values(self, x, attend_with_map(self, scores_BHNM), v_BHND)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, None))

    def _position_bias(self: Any) -> Tensor:
        tokens = self.window_size[0] * self.window_size[1]
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        bias_NMH = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1)
        bias: Tensor = 16 * torch.sigmoid(bias_NMH.permute(2, 0, 1).contiguous())
        return bias.unsqueeze(0)


class SlottedSwinV2Block(BlockSlots, SwinTransformerV2Block):
    """timm's Swin V2 block with slots; tokens are all H*W tokens of the map, windows merged and un-shifted."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same."""
        enter(self)
        shape = x.shape
        y_BNC = run_slot(self.post_attention, self, self._attn(x).flatten(1, 2))
        x_BNC = residual(self.skip_gain, x.flatten(1, 2), self.drop_path1(self.norm1(y_BNC)))
        x_BNC = x_BNC + self.drop_path2(self.norm2(self.mlp(x_BNC)))
        return leave(self, x_BNC).view(shape)


class SlottedRelPosAttention(AttentionSlots, RelPosAttention):
    """timm's attention with relative positions, with slots."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None, *, bands: Any = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); ``shared_rel_pos`` as timm's, ``bands`` as ``slots.SlottedAttention``'s."""
        B, N, _ = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        q_BHND, k_BHND = self.q_norm(q_BHND), self.k_norm(k_BHND)
        rel_pos: Any = self.rel_pos
        own = shared_rel_pos if rel_pos is None else rel_pos.get_bias()
        bias = total_of(own, added_to_scores(self, q_BHND, k_BHND))
        attend = attend_by_scores(self, q_BHND, k_BHND, mask=bias)
        z_BNC, of_map = mix_values(self, x, attend, v_BHND)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class SlottedRelPosBlock(SlottedBlock, RelPosBlock):  # type: ignore[misc]  # its modules are those of a ViT's block
    """timm's pre-norm block with relative positions, with slots."""


class SlottedPostNormRelPosBlock(BlockSlots, ResPostRelPosBlock):
    """timm's block with relative positions whose norms come after the branches, with slots."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); ``shared_rel_pos`` as timm's."""
        enter(self)
        post_attention, bands = bands_of_output(self)
        keywords = {} if bands is None else {"bands": bands}
        y_BNC = run_slot(post_attention, self, self.attn(x, shared_rel_pos=shared_rel_pos, **keywords))
        x = residual(self.skip_gain, x, self.drop_path1(self.norm1(y_BNC)))
        return leave(self, x + self.drop_path2(self.norm2(self.mlp(x))))


def _qkv(attention: Any, x_BNC: Tensor) -> Tensor:
    """As timm computes them: keys have a bias of 0."""
    if attention.q_bias is None:
        projected: Tensor = attention.qkv(x_BNC)
        return projected
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    if attention.qkv_bias_separate:
        separate: Tensor = attention.qkv(x_BNC) + bias
        return separate
    return F.linear(x_BNC, weight=attention.qkv.weight, bias=bias)
