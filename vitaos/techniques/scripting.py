"""``torch.jit.script`` of a model with techniques.

Slots hold Python functions, which TorchScript does not compile. A model with slots therefore gives it a copy of itself
(torch's ``__prepare_scriptable__``) in which every slotted block is a trace of that block: any number of images, in the
mode (training or evaluation) that the model was in. The model itself stays as it is.
"""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from vitaos.techniques.record import record_in
from vitaos.techniques.slot_calls import BlockSlots
from vitaos.techniques.slots import SlottedBlock, SlottedCaitBlock, SlottedSwinBlock

HOOK: Final = "__prepare_scriptable__"
"""The attribute in which torch.jit.script looks for what it is to compile in a module's place."""
_EXAMPLE_TOKENS: Final = 4  # a trace takes any number


class TracedBlock(nn.Module):
    """A slotted block as TorchScript takes it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            self.traced = torch.jit.trace(block, (_example(block),), check_trace=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: the block's tokens; masks are not in the trace."""
        if attn_mask is not None or is_causal:
            raise ValueError("A scripted block with techniques takes no attention mask.")
        result: Tensor = self.traced(x)
        return result


def scriptable(model: nn.Module) -> nn.Module:
    """A copy of a model for torch.jit.script, its slotted blocks traced.

    Raises:
        ValueError: a technique is attached whose blocks hand on what a trace of one block does not see.
    """
    record = record_in(model)
    if record is not None and record.needed_by:
        raise ValueError(
            f"{', '.join(record.needed_by)}: torch.jit.script cannot follow what is handed from block to block; use "
            "torch.export."
        )
    if any(hasattr(module, "effective_weight") for module in model.modules()):
        raise ValueError("sigma_reparam: torch.jit.script cannot follow reparametrized weights; use torch.export.")
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        module.__dict__.pop(HOOK, None)
        for name, child in list(module.named_children()):
            if type(child) in (SlottedBlock, SlottedCaitBlock, SlottedSwinBlock):
                setattr(module, name, TracedBlock(child))
            elif isinstance(child, BlockSlots):
                raise ValueError(
                    f"torch.jit.script cannot follow the blocks of {type(model).__name__}; use torch.export."
                )
    return copied


def _example(block: Any) -> Tensor:
    weight: Tensor = block.attn.qkv.weight
    size = tuple(block.input_resolution) if hasattr(block, "input_resolution") else (_EXAMPLE_TOKENS,)
    return weight.new_zeros(1, *size, weight.shape[1])
