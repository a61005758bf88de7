"""The record of a forward pass: what one block of a model leaves to those after it, and to the training step.

All blocks and attention modules of a model share one :class:`PassRecord` (:func:`share_record`). It is empty between
passes and in every copy, so models stay deepcopy-able and picklable; token counts are plain integers, so a compiled
model is compiled once. Gradient checkpointing runs blocks again in the backward pass, when the record is gone: what is
handed on cannot be had there and says so; terms of the loss can, and count once (``losses``).

Shapes: B images, N tokens now, O tokens at the start of the pass, prefix tokens included.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Reduce = Callable[[Tensor], Tensor]
"""A linear function along the token axis, (B, ..., N, K) -> (B, ..., n, K)."""


class PassRecord:
    """What is handed on within one forward pass.

    Attributes:
        depth: blocks of the model.
        needed_by: techniques that cannot do without it from block to block.
        sizes_BN: how many of the original tokens each token stands for; None while each stands for itself.
        sources_BO: where each original token is now; -1 for one that is gone, None while all are where they were.
        carried: tensors with a token axis, (B, ..., N, K), that follow the tokens when these become fewer.
        seen: what a look at queries and keys, or at the image's tokens, left for a ``tokens`` slot.
        losses: terms of the training loss by name, while a training step collects them; else None.
        schedules: technique -> its value at a point of training, given in epochs with a fraction.
        scheduled: technique -> that value in the present training step; empty outside of one.
        reduced_by: the technique that makes tokens fewer, or nothing.
        keeps_sizes: whether the sizes stay after the last block, for the pooling.
        watches_class_row: whether the last block is to leave the class token's row of its map in every training pass.
        wants_class_row: that it is to do so now.
        class_row_BM: that row, averaged over heads, until it is taken or the training pass ends.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.needed_by: tuple[str, ...] = ()
        self.keeps_sizes = False
        self.reduced_by = ""
        self.losses: dict[str, Tensor] | None = None
        self.schedules: dict[str, Callable[[float], float]] = {}
        self.scheduled: dict[str, float] = {}
        self.watches_class_row = self.wants_class_row = False
        self.class_row_BM: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the pass."""
        self.sizes_BN: Tensor | None = None
        self.sources_BO: Tensor | None = None
        self.carried: dict[str, Tensor] = {}
        self.seen: dict[str, Any] = {}
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        empty = PassRecord(self.depth)
        for name in ("needed_by", "keeps_sizes", "reduced_by", "schedules", "watches_class_row"):
            setattr(empty, name, getattr(self, name))
        return dict(vars(empty))

    def enter(self, index: int) -> None:
        """A block begins.

        Raises:
            ValueError: it is not the one that comes next, and a technique needs what is handed on.
        """
        if index == 0:
            self.clear()
        elif index != self._next and self.needed_by:
            raise ValueError(
                f"{', '.join(self.needed_by)}: what the blocks hand on within a forward pass is gone: gradient "
                "checkpointing (checkpoint_gradients=true) cannot be used, nor single blocks."
            )
        self._next = index + 1

    def leave(self, index: int) -> None:
        """A block ends."""
        if index == self.depth - 1:
            sizes_BN, sources_BO = self.sizes_BN, self.sources_BO
            self.clear()
            if self.keeps_sizes:
                self.sizes_BN, self.sources_BO = sizes_BN, sources_BO

    def reduce(self, x_BNC: Tensor, reduce: Reduce, moved_BN: Tensor) -> Tensor:
        """Make tokens fewer, and with them all that is carried.

        Args:
            x_BNC: the tokens.
            reduce: what becomes of any tensor with these tokens.
            moved_BN: where each token goes; -1 for one that is dropped.
        """
        self.carried = {name: reduce(value) for name, value in self.carried.items()}
        if self.sources_BO is None:
            self.sources_BO = moved_BN
        else:
            before_BO = self.sources_BO
            self.sources_BO = torch.where(before_BO < 0, before_BO, moved_BN.gather(1, before_BO.clamp(min=0)))
        return reduce(x_BNC)


def share_record(sites: Sequence[Any], needed_by: str | None = None) -> PassRecord:
    """The record of these sites' model, made where it has none; all blocks and attention modules know it.

    Args:
        sites: all sites of the model, in order of depth.
        needed_by: technique that needs it from block to block; None where a single block would do.
    """
    record: PassRecord = sites[0].block.record or PassRecord(len(sites))
    for index, site in enumerate(sites):
        site.block.record, site.block.place, site.attention.record = record, index, record
    if needed_by is not None and needed_by not in record.needed_by:
        record.needed_by = (*record.needed_by, needed_by)
    return record


def sizes_of(module: Any) -> Tensor | None:
    """(B, N): how many of the original tokens each token of a block or attention module stands for; None: one each."""
    record: PassRecord | None = getattr(module, "record", None)
    return None if record is None else record.sizes_BN


def log_sizes(module: Any, like: Tensor) -> Tensor | None:
    """(B, 1, 1, M): what a token's size adds to its logits as a key, so that it counts as the tokens it stands for."""
    sizes_BN = sizes_of(module)
    return None if sizes_BN is None else sizes_BN.log()[:, None, None, :].to(like.dtype)


def record_in(model: nn.Module) -> PassRecord | None:
    """The record that the blocks of a model share, if they have one."""
    found = (getattr(module, "record", None) for module in model.modules())
    return next((record for record in found if isinstance(record, PassRecord)), None)
