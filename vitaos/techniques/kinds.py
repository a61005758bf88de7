"""The kinds of backbones that have slots, and why others have none."""

from dataclasses import dataclass
from typing import Final

from timm.layers import AttentionRope, DiffAttention
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.cait import Cait, LayerScaleBlock, TalkingHeadAttn
from timm.models.crossvit import CrossVit
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.naflexvit import NaFlexVit
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from timm.models.swin_transformer_v2 import WindowAttention as WindowAttentionV2
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from timm.models.volo import VOLO, Transformer
from timm.models.volo import Attention as VoloAttention
from torch import nn

from vitaos.techniques.block_paths import BlocksOf, in_branches, in_network, in_sequence, in_stages
from vitaos.techniques.differential_slots import SlottedDiffAttention
from vitaos.techniques.grid_slots import SlottedNaFlexBlock, SlottedVoloAttention, SlottedVoloBlock
from vitaos.techniques.relative_slots import (
    SlottedPostNormRelPosBlock,
    SlottedRelPosAttention,
    SlottedRelPosBlock,
    SlottedSwinV2Block,
    SlottedWindowAttentionV2,
)
from vitaos.techniques.rotary_slots import (
    SlottedBeitAttention,
    SlottedBeitBlock,
    SlottedEvaAttention,
    SlottedEvaBlock,
    SlottedRopeAttention,
)
from vitaos.techniques.slots import (
    SlottedAttention,
    SlottedBlock,
    SlottedCaitBlock,
    SlottedSwinBlock,
    SlottedTalkingHeadAttention,
    SlottedWindowAttention,
)


@dataclass(frozen=True)
class Kind:
    """A family of backbones, and the module classes that slots know how to open in it (with their submodules)."""

    name: str
    model: type[nn.Module]
    block: type[nn.Module]
    slotted_block: type[nn.Module]
    attention: type[nn.Module]
    slotted_attention: type[nn.Module]
    attention_children: frozenset[str]
    techniques: frozenset[str] | None = None
    """Those that are held against their equations on it; None: all that do not refuse it themselves."""
    blocks_of: BlocksOf = in_sequence
    """Finds the blocks of a model."""


_OF_MAP_AND_BRANCH: Final = frozenset({"attnscale", "featscale", "contranorm", "gfsa", "centered_attention"})

_OF_MAP_AND_OUTPUT: Final = _OF_MAP_AND_BRANCH - {"contranorm"}  # which enters a branch before its norm
_VIT_CHILDREN: Final = frozenset({"qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"})
_EVA_CHILDREN: Final = frozenset(
    {"qkv", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}
)
_REL_POS_CHILDREN: Final = frozenset({"qkv", "q_norm", "k_norm", "rel_pos", "attn_drop", "proj", "proj_drop"})

KINDS: Final = (
    Kind(
        "ViT",
        VisionTransformer,
        Block,
        SlottedBlock,
        Attention,
        SlottedAttention,
        _VIT_CHILDREN,
    ),
    Kind(
        "differential ViT",
        VisionTransformer,
        Block,
        SlottedBlock,
        DiffAttention,
        SlottedDiffAttention,
        frozenset({"qkv", "q_norm", "k_norm", "attn_drop", "norm", "sub_norm", "proj", "proj_drop"}),
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "CaiT",
        Cait,
        LayerScaleBlock,
        SlottedCaitBlock,
        TalkingHeadAttn,
        SlottedTalkingHeadAttention,
        frozenset({"qkv", "attn_drop", "proj_l", "proj_w", "proj", "proj_drop"}),
    ),
    Kind(
        "Swin",
        SwinTransformer,
        SwinTransformerBlock,
        SlottedSwinBlock,
        WindowAttention,
        SlottedWindowAttention,
        frozenset({"qkv", "attn_drop", "proj", "proj_drop", "softmax"}),
        blocks_of=in_stages,
    ),
    Kind(
        "Eva",
        Eva,
        EvaBlock,
        SlottedEvaBlock,
        EvaAttention,
        SlottedEvaAttention,
        _EVA_CHILDREN,
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "Beit",
        Beit,
        BeitBlock,
        SlottedBeitBlock,
        BeitAttention,
        SlottedBeitAttention,
        frozenset({"qkv", "attn_drop", "proj", "proj_drop"}),
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "Eva with AttentionRope",
        Eva,
        EvaBlock,
        SlottedEvaBlock,
        AttentionRope,
        SlottedRopeAttention,
        _EVA_CHILDREN,
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "Swin V2",
        SwinTransformerV2,
        SwinTransformerV2Block,
        SlottedSwinV2Block,
        WindowAttentionV2,
        SlottedWindowAttentionV2,
        frozenset({"qkv", "cpb_mlp", "attn_drop", "proj", "proj_drop", "softmax"}),
        techniques=_OF_MAP_AND_OUTPUT,
        blocks_of=in_stages,
    ),
    Kind(
        "RelPos",
        VisionTransformerRelPos,
        RelPosBlock,
        SlottedRelPosBlock,
        RelPosAttention,
        SlottedRelPosAttention,
        _REL_POS_CHILDREN,
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "RelPos with norms after the branches",
        VisionTransformerRelPos,
        ResPostRelPosBlock,
        SlottedPostNormRelPosBlock,
        RelPosAttention,
        SlottedRelPosAttention,
        _REL_POS_CHILDREN,
        techniques=_OF_MAP_AND_OUTPUT,
    ),
    Kind(
        "NaFlexViT",
        NaFlexVit,
        Block,
        SlottedNaFlexBlock,
        Attention,
        SlottedAttention,
        _VIT_CHILDREN,
        techniques=_OF_MAP_AND_BRANCH,
    ),
    Kind(
        "VOLO",
        VOLO,
        Transformer,
        SlottedVoloBlock,
        VoloAttention,
        SlottedVoloAttention,
        frozenset({"qkv", "attn_drop", "proj", "proj_drop"}),
        techniques=_OF_MAP_AND_BRANCH,
        blocks_of=in_network,
    ),
    Kind(
        "CrossViT",
        CrossVit,
        Block,
        SlottedBlock,
        Attention,
        SlottedAttention,
        _VIT_CHILDREN,
        techniques=_OF_MAP_AND_BRANCH,
        blocks_of=in_branches,
    ),
)

REASONS: Final = {
    "SwinTransformerV2Cr": "the blocks and the attention are classes of their own: no slots are written for them",
}
"""Why what looks like a known kind is none."""
