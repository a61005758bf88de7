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
    pre_norm        f(block, x_BNC) -> x_BNC: what enters either branch, right before its norm
    post_attention  f(block, y_BNC) -> y_BNC: what leaves attention, before LayerScale, drop path and the residual sum
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

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.cait import LayerScaleBlock, TalkingHeadAttn
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from vitaos.techniques.bands import Bands
from vitaos.techniques.folding import bands_of_map, bands_of_output, project
from vitaos.techniques.record import PassRecord

Attend = Callable[[Tensor], Tensor]
SlotFunction = Callable[..., Any]
# (priority, function) in ascending priority: the order of effect, whatever the order of attaching.
Slot = tuple[tuple[int, SlotFunction], ...]


def _run_operators(operators: Slot, attention: Any, attend: Attend, v_BHND: Tensor) -> Tensor:
    for _, operator in operators:
        attend = partial(operator, attention, attend)
    return attend(v_BHND)


def _added_to_scores(attention: Any, q_BHND: Tensor, k_BHND: Tensor) -> Tensor | None:
    """The sum of the score slots' terms, in the type of the queries; None where there is nothing to add."""
    total: Tensor | None = None
    for _, function in attention.scores:
        term = function(attention, q_BHND, k_BHND)
        if term is not None:
            total = term if total is None else total + term
    return None if total is None else total.to(q_BHND.dtype)


def _run_heads(attention: Any, x_BNC: Tensor, v_BHND: Tensor, z_BHND: Tensor) -> Tensor:
    for _, function in attention.heads:
        z_BHND = function(attention, x_BNC, v_BHND, z_BHND)
    return z_BHND


def _run(slot: Slot, module: nn.Module, x: Tensor) -> Tensor:
    for _, function in slot:
        x = function(module, x)
    return x


def _enter(block: Any) -> None:
    if block.record is not None:
        block.record.enter(block.place)


def _check_masks(block: Any, given: tuple[Any, ...]) -> None:
    reduced_by = "" if block.record is None else block.record.reduced_by
    if reduced_by and any(value is not None and value is not False for value in given):
        raise ValueError(f"{reduced_by}: an attention mask names tokens by their place, which they lose here.")


def _leave(block: Any, x_BNC: Tensor) -> Tensor:
    for _, term in block.losses:
        term(block, x_BNC)
    if block.record is not None:
        block.record.leave(block.place)
    return x_BNC


def _residual(skip_gain: float, x: Tensor, branch: Tensor) -> Tensor:
    """The sum around attention, skip_gain * x + branch, in one pass over memory; plain addition at 1."""
    return x + branch if skip_gain == 1 else torch.add(branch, x, alpha=skip_gain)


def _attend_with_map(attention: Any, scores_BHNM: Tensor) -> Attend:
    """Softmax, map slots, dropout: attention with its N x N map in memory."""
    map_BHNM = _run(attention.maps, attention, scores_BHNM.softmax(dim=-1))
    map_BHNM = attention.attn_drop(map_BHNM)
    return partial(torch.matmul, map_BHNM)


class SlottedAttention(Attention):
    """timm's multi-head self-attention with slots."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    record: PassRecord | None = None
    heads: Slot = ()

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
        added = _added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            attn_mask, is_causal = _masked(added, attn_mask, is_causal, q_BHND.shape[-2]), False
        if self.fused_attn and not self.maps:
            attend: Attend = partial(self._attend_fused, q_BHND, k_BHND, attn_mask, is_causal)
        else:
            scores_BHNM = (q_BHND * self.scale) @ k_BHND.transpose(-2, -1)
            attend = _attend_with_map(self, _masked(scores_BHNM, attn_mask, is_causal, N))
        operators, of_map = bands_of_map(self)
        z_BHND = _run_heads(self, x, v_BHND, _run_operators(operators, self, attend, v_BHND))
        z_BNC = self.norm(z_BHND.transpose(1, 2).reshape(B, N, self.num_heads * self.head_dim))
        gate = getattr(self, "gate", None)
        if gate is not None:
            z_BNC = z_BNC * gate(x).sigmoid()
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, bands))

    def _attend_fused(
        self, q_BHND: Tensor, k_BHND: Tensor, attn_mask: Tensor | None, is_causal: bool, v_BHND: Tensor
    ) -> Tensor:
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask, dropout, is_causal)


def _masked(scores_BHNM: Tensor, attn_mask: Tensor | None, is_causal: bool, queries: int) -> Tensor:
    """Scores, or a term of them that broadcasts, with the masks of scaled_dot_product_attention."""
    if is_causal:
        shape = queries, scores_BHNM.shape[-1]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores_BHNM.device).tril()
    if attn_mask is None:
        return scores_BHNM
    if attn_mask.dtype == torch.bool:
        return scores_BHNM.masked_fill(~attn_mask, float("-inf"))
    return scores_BHNM + attn_mask


class SlottedTalkingHeadAttention(TalkingHeadAttn):
    """timm's talking-heads attention of CaiT with slots: it mixes heads around the softmax, so it has its map."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    record: PassRecord | None = None
    heads: Slot = ()

    def forward(self, x: Tensor, *, bands: Bands | None = None) -> Tensor:
        """x: (B, N, C) -> (B, N, C); ``bands`` as in :class:`SlottedAttention`."""
        B, N, C = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND[0] * self.scale, qkv_3BHND[1], qkv_3BHND[2]
        scores_BHNM = q_BHND @ k_BHND.transpose(-2, -1)
        scores_BHNM = self.proj_l(scores_BHNM.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        added = _added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            scores_BHNM = scores_BHNM + added
        map_BHNM = scores_BHNM.softmax(dim=-1)
        map_BHNM = self.proj_w(map_BHNM.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        map_BHNM = self.attn_drop(_run(self.maps, self, map_BHNM))
        operators, of_map = bands_of_map(self)
        z_BHND = _run_operators(operators, self, partial(torch.matmul, map_BHNM), v_BHND)
        z_BHND = _run_heads(self, x, v_BHND, z_BHND)
        return self.proj_drop(project(self, z_BHND.transpose(1, 2).reshape(B, N, C), v_BHND, of_map, bands))


class SlottedWindowAttention(WindowAttention):
    """timm's window attention of Swin with slots; N is the number of tokens of a window, masked ones included."""

    scores: Slot = ()
    operators: Slot
    maps: Slot
    record: PassRecord | None = None
    heads: Slot = ()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B * windows, N, C) -> the same; mask: additive (windows, N, N), or None where windows are not shifted."""
        B, N, _ = x.shape
        qkv_3BHND = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q_BHND, k_BHND, v_BHND = qkv_3BHND.unbind(0)
        bias, added = self._get_rel_pos_bias(), _added_to_scores(self, q_BHND, k_BHND)
        if added is not None:
            bias = bias + added
        if mask is not None:
            mask = mask.unsqueeze(1).repeat(B // mask.shape[0], 1, 1, 1)
        if self.fused_attn and not self.maps:
            attend: Attend = partial(self._attend_fused, q_BHND, k_BHND, bias if mask is None else bias + mask)
        else:
            scores_BHNM = (q_BHND * self.scale) @ k_BHND.transpose(-2, -1) + bias
            attend = _attend_with_map(self, scores_BHNM if mask is None else scores_BHNM + mask)
        operators, of_map = bands_of_map(self)
        z_BHND = _run_heads(self, x, v_BHND, _run_operators(operators, self, attend, v_BHND))
        z_BNC = z_BHND.transpose(1, 2).reshape(B, N, -1)
        return self.proj_drop(project(self, z_BNC, v_BHND, of_map, None))

    def _attend_fused(self, q_BHND: Tensor, k_BHND: Tensor, bias: Tensor, v_BHND: Tensor) -> Tensor:
        dropout = self.attn_drop.p if self.training else 0.0
        return F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=bias, dropout_p=dropout)


class SlottedBlock(Block):
    """timm's pre-norm ViT block with slots."""

    pre_norm: Slot
    post_attention: Slot
    tokens: Slot = ()
    losses: Slot = ()
    record: PassRecord | None = None
    place: int = 0
    skip_gain: float

    def forward(self, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """x: (B, N, C) -> (B, N, C); further arguments (masks) go to the attention."""
        _enter(self)
        if args or keywords:
            _check_masks(self, (*args, *keywords.values()))
        post_attention, bands = bands_of_output(self)
        if bands is not None:
            keywords["bands"] = bands
        y_BNC = self.attn(self.norm1(_run(self.pre_norm, self, x)), *args, **keywords)
        x = _residual(self.skip_gain, x, self.drop_path1(self.ls1(_run(post_attention, self, y_BNC))))
        x = _run(self.tokens, self, x)
        return _leave(self, x + self.drop_path2(self.ls2(self.mlp(self.norm2(_run(self.pre_norm, self, x))))))


class SlottedCaitBlock(LayerScaleBlock):
    """timm's CaiT block for patch tokens with slots."""

    pre_norm: Slot
    post_attention: Slot
    tokens: Slot = ()
    losses: Slot = ()
    record: PassRecord | None = None
    place: int = 0
    skip_gain: float

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C) -> (B, N, C)."""
        _enter(self)
        post_attention, bands = bands_of_output(self)
        keywords = {} if bands is None else {"bands": bands}
        y_BNC = self.attn(self.norm1(_run(self.pre_norm, self, x)), **keywords)
        x = _residual(self.skip_gain, x, self.drop_path(self.gamma_1 * _run(post_attention, self, y_BNC)))
        x = _run(self.tokens, self, x)
        return _leave(self, x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(_run(self.pre_norm, self, x)))))


class SlottedSwinBlock(SwinTransformerBlock):
    """timm's Swin block with slots; tokens are all H*W tokens of the map, windows merged and un-shifted.

    ``ls1`` and ``ls2`` are the places of LayerScale that timm's ViT block has and its Swin block lacks.
    """

    pre_norm: Slot
    post_attention: Slot
    tokens: Slot = ()
    losses: Slot = ()
    record: PassRecord | None = None
    place: int = 0
    skip_gain: float
    ls1: nn.Module
    ls2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same."""
        _enter(self)
        shape = x.shape
        x_BNC = x.flatten(1, 2)
        y_BNC = self._attn(self.norm1(_run(self.pre_norm, self, x_BNC).view(shape))).flatten(1, 2)
        x_BNC = _residual(self.skip_gain, x_BNC, self.drop_path1(self.ls1(_run(self.post_attention, self, y_BNC))))
        x_BNC = _run(self.tokens, self, x_BNC)
        x_BNC = x_BNC + self.drop_path2(self.ls2(self.mlp(self.norm2(_run(self.pre_norm, self, x_BNC)))))
        return _leave(self, x_BNC).view(shape)
