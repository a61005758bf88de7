"""Where the blocks of each kind of backbone lie: every place that ought to hold one, whatever is there.

So a strange block among known ones is found, and refused by name, instead of being left out in silence.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from timm.models.volo import Outlooker
from torch import nn

BlocksOf = Callable[[Any], dict[str, Any]]
"""Path -> block of a model, in order of depth."""

_IN_BLOCKS: Final = re.compile(r"(^|\.)blocks\.\d+$")


def in_sequence(model: Any) -> dict[str, Any]:
    """One sequence: ViT, CaiT (whose class-attention blocks are another) and most others."""
    return {f"blocks.{i}": block for i, block in enumerate(model.blocks)}


def in_stages(model: Any) -> dict[str, Any]:
    """Stages: Swin and Swin V2, also as timm's ``features_only=True`` takes them apart."""
    return {path: module for path, module in model.named_modules() if _IN_BLOCKS.search(path)}


def in_network(model: Any) -> dict[str, Any]:
    """VOLO: stages of blocks, of outlookers, which have no slots, and what makes the grid coarser between them."""
    stages = {path: stage for path, stage in model.network.named_children() if isinstance(stage, nn.Sequential)}
    blocks = {f"network.{path}.{i}": block for path, stage in stages.items() for i, block in enumerate(stage)}
    return {path: block for path, block in blocks.items() if not isinstance(block, Outlooker)}


def in_branches(model: Any) -> dict[str, Any]:
    """CrossViT: branch by branch of every multi-scale block; its fusion has no slots."""
    return {
        f"blocks.{number}.blocks.{branch}.{i}": block
        for number, whole in enumerate(model.blocks)
        for branch, sequence in enumerate(whole.blocks)
        for i, block in enumerate(sequence)
    }
