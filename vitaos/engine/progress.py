"""Where a run stands: plain numbers on the host, running sums on the device."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from vitaos.runtime.world import World

FIXED_POINT: Final = float(1 << 24)
"""Losses are summed as integers in units of 2^-24 (what fp32 resolves at 1): a sum of integers does not depend on how
it is grouped, so a total over ranks that was saved half-way and continued by any number of ranks is the same to the
last bit."""
_MAX_STEP: Final = 1 << 48
"""No run gets here; a counter beyond it is damage."""


@dataclass
class Progress:
    """The part of a run's state that is neither weights nor optimizer.

    Attributes:
        step: global steps done.
        epoch: epoch in work, 0-based; it ends when its evaluation is recorded.
        evaluated_step: step whose evaluation was recorded last; -1 before the first.
        metrics_lines: lines of metrics recorded since the run began.
        best_top1, best_step: best top-1 accuracy so far, of raw or averaged weights, and its step.
        train_seconds, epoch_seconds: time spent in training steps, in all and in this epoch.
        seed, global_batch, steps_per_epoch: what the draws and the order of images depend on; must be the same on
            resumption.
    """

    seed: int
    global_batch: int
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    evaluated_step: int = -1
    metrics_lines: int = 0
    best_top1: float = -1.0
    best_step: int = -1
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0

    @property
    def step_in_epoch(self) -> int:
        """Steps done of the epoch in work."""
        return self.step - self.epoch * self.steps_per_epoch

    def note_top1(self, top1: float) -> bool:
        """Remember an accuracy that is the best so far; whether it is."""
        if top1 <= self.best_top1:
            return False
        self.best_top1, self.best_step = top1, self.step
        return True

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: the saved run had another seed, global batch or number of steps in an epoch, so it cannot go
                on as the run it was; or a value is missing or cannot be.
        """
        for field in fields(self):
            if field.name not in state:
                raise ValueError(f"progress.{field.name} is missing")
            value, whole = state[field.name], type(getattr(self, field.name)) is int
            if type(value) is not int and (whole or type(value) is not float):
                raise ValueError(f"progress.{field.name}={value!r:.80}: expected a {'whole ' * whole}number")
        for name in ("seed", "global_batch", "steps_per_epoch"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the checkpoint was made with {name}={state[name]}, this run has {name}={getattr(self, name)}: "
                    "it would not continue the same run. Keep batch_size x accumulate x processes, data and seed, "
                    "or start another run from its weights"
                )
        step, first = state["step"], state["epoch"] * self.steps_per_epoch
        if not 0 <= first <= step <= min(first + self.steps_per_epoch, _MAX_STEP):
            raise ValueError(
                f"progress.step={step} cannot be: epoch {state['epoch']} has the steps {first} to "
                f"{first + self.steps_per_epoch}"
            )
        for field in fields(self):
            setattr(self, field.name, state[field.name])


class Sums:
    """Running sums of an epoch and the counts of a run, on the device.

    Attributes:
        loss: int64, this rank's share of the sum of step losses (losses divided by the number of ranks), in units of
            2^-24. After a resume the main rank goes on with the sum of all.
        steps: int64, steps that counted (not skipped) in the epoch.
        norm: float64, sum of the gradient norms of those steps; the same on every rank.
        skipped: int64, non-finite steps left out since the run began.
        terms: int64 (K,), as `loss`, the terms that the model adds to it.
        term_names: of those K terms.
    """

    def __init__(self, device: torch.device, term_names: Sequence[str] = ()) -> None:
        self.loss = torch.zeros((), dtype=torch.int64, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.norm = torch.zeros((), dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.terms = torch.zeros(len(term_names), dtype=torch.int64, device=device)
        self.term_names = tuple(term_names)

    def add(self, share: Tensor, norm: Tensor, skip_step: Tensor, terms: Tensor | None = None) -> None:
        """Count a step: this rank's share of the loss, the global gradient norm, and whether it was skipped.

        `terms` (K,): this rank's shares of the terms that the model adds to the loss.
        """
        self.loss += torch.where(skip_step, 0, _in_units(share))
        if terms is not None:
            self.terms += torch.where(skip_step, 0, _in_units(terms))
        self.steps += ~skip_step
        self.norm += torch.where(skip_step, 0.0, norm.double())

    def start_epoch(self) -> None:
        """Forget the finished epoch."""
        self.loss.zero_()
        self.terms.zero_()
        self.steps.zero_()
        self.norm.zero_()

    def over_ranks(self, world: World) -> dict[str, Tensor]:
        """The sums with the losses of all ranks; a collective call."""
        return {
            "loss": world.all_reduce(self.loss.clone()),
            "steps": self.steps,
            "norm": self.norm,
            "skipped": self.skipped,
            **({"terms": world.all_reduce(self.terms.clone())} if self.term_names else {}),
        }

    def load_state_dict(self, state: dict[str, Tensor], world: World) -> None:
        """Continue saved sums: the loss of all former ranks goes on on the main one.

        Raises:
            ValueError: the saved run added other terms to its loss.
        """
        terms = state.get("terms", torch.zeros(0, dtype=torch.int64))
        if terms.shape != self.terms.shape:
            raise ValueError(
                f"the checkpoint's model adds {terms.numel()} terms to the loss, this run's {len(self.term_names)}"
            )
        self.terms.copy_(terms if world.is_main else torch.zeros_like(terms))
        for name in ("steps", "norm", "skipped"):
            getattr(self, name).copy_(state[name])
        self.loss.copy_(state["loss"] if world.is_main else torch.zeros_like(state["loss"]))

    def means(self, world: World) -> dict[str, float]:
        """Mean loss and gradient norm over the epoch's steps so far, NaN when none of them counted.

        A collective call that waits for the device.
        """
        total = self.over_ranks(world)
        steps = int(total["steps"])
        terms = zip(self.term_names, total.get("terms", torch.zeros(0)).tolist(), strict=True)
        return {
            "train_loss": int(total["loss"]) / FIXED_POINT / steps if steps else math.nan,
            **{f"train_{name}": term / FIXED_POINT / steps if steps else math.nan for name, term in terms},
            "grad_norm": float(total["norm"]) / steps if steps else math.nan,
        }


def _in_units(share: Tensor) -> Tensor:
    return (share.double().nan_to_num(0.0, 0.0, 0.0) * FIXED_POINT).round().to(torch.int64)
