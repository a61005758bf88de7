"""Terms that techniques add to the training loss.

A function of a ``losses`` slot (:class:`LossTerm`), or of any other slot by :func:`add_loss`, gives a scalar that
already has its weight. Terms of one name add up over the blocks. They are computed while a training step collects them
(:class:`TrainingPass`) and the model is in training mode, else not at all: evaluation knows none. Under gradient
checkpointing blocks run again in the backward pass; by then the step has read the terms, so each counts once.

A training loop of one's own::

    training_pass = vitaos.techniques.training_pass(model)
    with training_pass() as terms:
        loss = criterion(model(images), targets)
        loss = loss + sum(terms.values())
        loss.backward()
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitaos.techniques.record import record_in


@dataclass(frozen=True)
class LossTerm:
    """A function of a block's ``losses`` slot.

    Attributes:
        name: under which it is logged, one of its technique's ``losses``.
        function: f(block, x_BNC) -> scalar, from the tokens that leave the block.
    """

    name: str
    function: Callable[[Any, Tensor], Tensor]

    def __call__(self, block: Any, x_BNC: Tensor) -> None:
        """Add the term, where terms are collected."""
        if collects_losses(block):
            add_loss(block, self.name, self.function(block, x_BNC))


def collects_losses(module: Any) -> bool:
    """Whether a block or attention module is to compute terms of the loss: in a training step, in training mode."""
    return bool(module.training and module.record is not None and module.record.losses is not None)


def add_loss(module: Any, name: str, term: Tensor) -> None:
    """Add a scalar to the term of this name; ask :func:`collects_losses` first.

    Raises:
        ValueError: gradients are off, as under reentrant checkpointing: the term would train nothing.
    """
    if not torch.is_grad_enabled():
        raise ValueError(
            f"{name}: a term of the loss needs gradients, which are off here: a model in training mode under no_grad, "
            "or reentrant gradient checkpointing (leave TIMM_REENTRANT_CKPT unset)."
        )
    losses: dict[str, Tensor] = module.record.losses
    term = term.float() if term.dtype != torch.float64 else term
    losses[name] = losses[name] + term if name in losses else term


class TrainingPass:
    """A model's side of a training step: where training stands, and the terms that it adds to the loss.

    Args:
        model: with techniques attached, or without.
        loss_names: of the terms of its techniques.
        steps_per_epoch: tells the epoch of a step, for what changes while training goes on.
    """

    def __init__(self, model: nn.Module, loss_names: tuple[str, ...], steps_per_epoch: int = 1) -> None:
        self.loss_names = loss_names
        self._steps_per_epoch = steps_per_epoch
        self._record = record_in(model)

    @contextmanager
    def __call__(self, step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Context of forward and backward pass of a step; the terms are complete after the forward pass.

        Gives the terms by name. Read them before the backward pass, and only then.
        """
        terms: dict[str, Tensor] = {}
        record = self._record
        if record is None:
            yield terms
            return
        record.losses = terms if self.loss_names else None
        record.wants_class_row = record.watches_class_row
        epoch = step / self._steps_per_epoch
        record.scheduled = {name: value(epoch) for name, value in record.schedules.items()}
        try:
            yield terms
        finally:
            record.losses, record.scheduled = None, {}
            record.wants_class_row, record.class_row_BM = False, None
