"""Slots: the few places in timm's own attention and block modules where a technique may act.

:func:`~vitaos.techniques.sites.open_slots` turns the attention and block modules of a model into the subclasses below
by changing their class: same parameters, same submodules, same names, same numbers while the slots are empty. A
technique then puts a plain function into a slot, and its parameters on the module that the function is given. Functions
carry no state, so models stay deepcopy-able, picklable, exportable and compilable, and techniques combine in any order
of attaching. Functions that only re-weigh two bands (``bands``) are computed within the output projection (``folding``)
where nothing stands between, so that they cost no pass over the tokens.

Shapes: B batch (for Swin: batch x windows), H heads, N tokens, M tokens attended to (= N), D channels of a head, C
channels.

Slots of an attention module:
    scores     f(attention, q_BHND, k_BHND) -> a term that broadcasts to (B, H, N, M), or None: added to the logits,
               position bias and mask included; fused attention stays in use, the sum is its ``attn_mask``. Also the
               place for a look at queries and keys (normalized, not scaled; CaiT's queries are scaled)
    operators  f(attention, attend, v_BHND) -> y_BHND, where ``attend`` computes A v: fused attention stays in use
    maps       f(attention, map_BHNM) -> map_BHNM: for techniques that cannot do without the N x N map (fused attention
               is off in those modules)
    heads      f(attention, x_BNC, v_BHND, z_BHND) -> z_BHND: what the heads give, with what attention saw at hand
Slots of a block:
    pre_attention   f(block, x_BNC) -> x_BNC: what enters the attention branch alone, in front of ``pre_norm``
    pre_norm        f(block, x_BNC) -> x_BNC: what enters either branch, right before its norm
    post_attention  f(block, y_BNC) -> y_BNC: what leaves attention, before LayerScale, drop path and the residual sum
    post_mlp        f(block, y_BNC) -> y_BNC: what leaves the MLP, likewise
    tokens          f(block, x_BNC) -> x_BnC, n <= N: between attention's residual sum and the MLP's branch
    losses          a ``losses.LossTerm``: a term of the training loss from the tokens that leave the block

A scores function is ``partial(my_term, option=3)`` in ``fill(site.attention, "scores", priority, ...)``. Logits then
have N x N terms only if the function gives one of that size: (B, 1, 1, M) weighs tokens.

A term of the loss is ``fill(site.block, "losses", priority, LossTerm("my_loss", partial(my_loss, weight=0.1)))`` after
``share_record(sites)``, with ``losses=("my_loss",)`` in the :class:`~vitaos.techniques.technique.Technique`; from
another slot (``maps``, say) it is ``if collects_losses(attention): add_loss(attention, "my_loss", term)``. It is logged
as ``train_my_loss``; ``train_loss`` stays the criterion's.

What blocks hand on within a forward pass lies in the ``record`` that they share (``record.share_record``): sizes of
merged tokens (``record.sizes_of(module)``, for every mean over tokens), and in ``record.carried`` whatever has to
follow the tokens when a ``tokens`` function makes them fewer (``(B, ..., N, K)``; it lasts until the last block ends).

A block also has ``skip_gain`` r (1 unless ``attach`` was given another): its residual around attention is r x + branch.
"""

from functools import partial
from typing import Any

import torch
from timm.models.cait import LayerScaleBlock, TalkingHeadAttn
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from vitaos.techniques.bands import Bands
from vitaos.techniques.class_row import show_class_row
from vitaos.techniques.folding import bands_of_output, bands_of_windows, project, project_windows
from vitaos.techniques.slot_calls import (
    Attend,
    AttentionSlots,
    BlockSlots,
    added_to_scores,
    attend_by_scores,
    attend_fused,
    attend_with_map,
    check_masks,
    enter,
    enter_attention,
    leave,
    masked,
    mix_values,
    residual,
    run_mlp,
    run_slot,
)


class SlottedAttention(AttentionSlots, Attention):
    """timm's multi-head self-attention with slots."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, *, bands: Bands | None = None
    ) -> Tensor:
        """x: (B, N, C) -> (B, N, C).

        ``attn_mask`` and ``is_causal`` are those of torch's scaled_dot_product_attention; ``bands`` of the output are
        computed within the projection (``folding.bands_of_output`` says when that can be asked for).
        """
        B, N, _ = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        q_BHND, k_BHND = self.q_norm(q_BHND), self.k_norm(k_BHND)
        added = added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            attn_mask, is_causal = masked(added, attn_mask, is_causal, q_BHND.shape[-2]), False
        if self.shows_class_row:
            show_class_row(self, q_BHND, k_BHND, attn_mask)
        attend = attend_by_scores(self, q_BHND, k_BHND, mask=attn_mask, is_causal=is_causal)
        z_BNC, of_map = mix_values(self, x, attend, v_BHND)
        z_BNC = self.norm(z_BNC)
        gate = getattr(self, "gate", None)
        if gate is not None:
            z_BNC = z_BNC * gate(x).sigmoid()
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class SlottedTalkingHeadAttention(AttentionSlots, TalkingHeadAttn):
    """timm's talking-heads attention of CaiT with slots: it mixes heads around the softmax, so it has its map."""

    def forward(self, x: Tensor, *, bands: Bands | None = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); ``bands`` as in :class:`SlottedAttention`."""
        B, N, C = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND[0] * self.scale, qkv_3BHND[1], qkv_3BHND[2]
        scores_BHNM = q_BHND @ k_BHND.transpose(-2, -1)
        scores_BHNM = self.proj_l(scores_BHNM.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        added = added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            scores_BHNM = scores_BHNM + added
        map_BHNM = scores_BHNM.softmax(dim=-1)
        map_BHNM = self.proj_w(map_BHNM.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        map_BHNM = self.attn_drop(run_slot(self.maps, self, map_BHNM))
        z_BNC, of_map = mix_values(self, x, partial(torch.matmul, map_BHNM), v_BHND)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))


class SlottedWindowAttention(AttentionSlots, WindowAttention):
    """timm's window attention of Swin with slots; N is the number of tokens of a window, masked ones included.

    ``of_map`` is what the block asks of the projection while it runs: images, and bands over the tokens of each.
    """

    of_map: tuple[int, Bands] | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B * windows, N, C) -> the same; mask: additive (windows, N, N), or None where windows are not shifted."""
        B, N, _ = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        bias, added = self._get_rel_pos_bias(), added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            bias = bias + added
        if mask is not None:
            mask = mask.unsqueeze(1).repeat(B // mask.shape[0], 1, 1, 1)
        if self.fused_attn and not self.maps:
            total = bias if mask is None else bias + mask
            attend: Attend = partial(attend_fused, self, q_BHND, k_BHND, mask=total)
        else:
            scores_BHNM = (q_BHND * self.scale) @ k_BHND.transpose(-2, -1) + bias
            attend = attend_with_map(self, scores_BHNM if mask is None else scores_BHNM + mask)
        z_BNC, of_windows = mix_values(self, x, attend, v_BHND)
        if self.of_map is None:
            return self.proj_drop(project(self, z_BNC, v_BHND, of_windows, None))
        return self.proj_drop(project_windows(self, z_BNC, v_BHND, of_windows, self.of_map))


class SlottedBlock(BlockSlots, Block):
    """timm's pre-norm ViT block with slots."""

    def forward(self, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments (masks) go to the attention."""
        enter(self)
        if args or keywords:
            check_masks(self, (*args, *keywords.values()))
        post_attention, bands = bands_of_output(self)
        if bands is not None:
            keywords["bands"] = bands
        y_BNC = self.attn(self.norm1(enter_attention(self, x)), *args, **keywords)
        x = residual(self.skip_gain, x, self.drop_path1(self.ls1(run_slot(post_attention, self, y_BNC))))
        x = run_slot(self.tokens, self, x)
        return leave(self, x + self.drop_path2(self.ls2(run_mlp(self, x))))


class SlottedCaitBlock(BlockSlots, LayerScaleBlock):
    """timm's CaiT block for patch tokens with slots."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C) -> (B, N, C)."""
        enter(self)
        post_attention, bands = bands_of_output(self)
        keywords = {} if bands is None else {"bands": bands}
        y_BNC = self.attn(self.norm1(enter_attention(self, x)), **keywords)
        x = residual(self.skip_gain, x, self.drop_path(self.gamma_1 * run_slot(post_attention, self, y_BNC)))
        x = run_slot(self.tokens, self, x)
        return leave(self, x + self.drop_path(self.gamma_2 * run_mlp(self, x)))


class SlottedSwinBlock(BlockSlots, SwinTransformerBlock):
    """timm's Swin block with slots; tokens are all H*W tokens of the map, windows merged and un-shifted.

    ``ls1`` and ``ls2`` are the places of LayerScale that timm's ViT block has and its Swin block lacks.
    """

    ls1: nn.Module
    ls2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same."""
        enter(self)
        shape = x.shape
        x_BNC = x.flatten(1, 2)
        attention: Any = self.attn
        post_attention, bands = bands_of_windows(self, shape[1:3])
        attention.of_map = None if bands is None else (shape[0], bands)
        y_BNC = self._attn(self.norm1(enter_attention(self, x_BNC).view(shape))).flatten(1, 2)
        attention.of_map = None
        x_BNC = residual(self.skip_gain, x_BNC, self.drop_path1(self.ls1(run_slot(post_attention, self, y_BNC))))
        x_BNC = run_slot(self.tokens, self, x_BNC)
        x_BNC = x_BNC + self.drop_path2(self.ls2(run_mlp(self, x_BNC)))
        return leave(self, x_BNC).view(shape)
