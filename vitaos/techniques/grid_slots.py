"""Slots in the attention blocks of timm's VOLO, whose tokens lie in a grid, and of NaFlexViT: see ``slots``.

VOLO's outlookers weigh neighborhoods: their maps are no averages over all tokens, so that they have no slots, and
neither have its class-attention blocks, as CaiT's.
"""

from typing import Any

from timm.models.volo import Attention as VoloAttention
from timm.models.volo import Transformer
from torch import Tensor

from vitaos.techniques.folding import bands_of_output, project
from vitaos.techniques.slot_calls import (
    AttentionSlots,
    BlockSlots,
    added_to_scores,
    attend_by_scores,
    enter,
    leave,
    mix_values,
    residual,
    run_slot,
)
from vitaos.techniques.slots import SlottedBlock


class SlottedVoloAttention(AttentionSlots, VoloAttention):
    """timm's attention of VOLO between all tokens of the grid, with slots."""

    def forward(self, x: Tensor, *, bands: Any = None) -> Tensor:
        """x: (B, height, width, C) -> the same; ``bands`` as ``slots.SlottedAttention``'s."""
        shape, x_BNC = x.shape, x.flatten(1, 2)
        B, N, C = x_BNC.shape
        qkv_3BHND = self.qkv(x_BNC).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        added = added_to_scores(self, q_BHND, k_BHND)
        attend = attend_by_scores(self, q_BHND, k_BHND, mask=added)
        z_BNC, of_map = mix_values(self, x_BNC, attend, v_BHND)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands)).view(shape)


class SlottedVoloBlock(BlockSlots, Transformer):
    """timm's transformer block of VOLO with slots; tokens are all H*W tokens of the grid."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same."""
        enter(self)
        shape, x_BNC = x.shape, x.flatten(1, 2)
        post_attention, bands = bands_of_output(self)
        keywords = {} if bands is None else {"bands": bands}
        y_BNC = self.attn(self.norm1(run_slot(self.pre_norm, self, x_BNC)).view(shape), **keywords).flatten(1, 2)
        x_BNC = residual(self.skip_gain, x_BNC, self.drop_path1(run_slot(post_attention, self, y_BNC)))
        y_BNC = self.mlp(self.norm2(run_slot(self.pre_norm, self, x_BNC)))
        return leave(self, x_BNC + self.drop_path2(y_BNC)).view(shape)


class SlottedNaFlexBlock(SlottedBlock):
    """A ViT's block in a NaFlexViT, with slots, for batches of images of one size."""

    def forward(self, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """As :class:`SlottedBlock`.

        Raises:
            ValueError: a mask, which tells padding from tokens: means over tokens would count the padding.
        """
        if any(value is not None and value is not False for value in (*args, *keywords.values())):
            raise ValueError(
                "Techniques on NaFlexViT take images of one size, as a tensor (B, 3, H, W): with a mask of padding, "
                "means over tokens would count the padding"
            )
        return super().forward(x, *args, **keywords)
