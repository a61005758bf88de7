"""timm's schedulers as pure functions of the global step: what follows from the number of a unit alone."""

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

KINDS: Final = ("cosine", "tanh", "step", "multistep", "poly", "wsd", "rsqrt", "constant")
"""Of timm's names; its ``plateau`` follows from accuracies, not from the step."""


@dataclass(frozen=True)
class Decay:
    """How a schedule of timm falls; each kind reads what it has a use for.

    Attributes:
        epochs: between two falls ("step"; None: 90), or of the last phase ("wsd", "rsqrt"; below 1: a share of the
            schedule; None: 0.2).
        milestones: epochs of the falls ("multistep").
        rate: factor of a fall ("step", "multistep"), power ("poly").
    """

    epochs: float | None = None
    milestones: tuple[int, ...] = (90, 180, 270)
    rate: float = 0.1


@dataclass
class TimmSchedule:
    """A scheduler of timm, asked for the rate of any step in any order.

    Attributes:
        kind: one of :data:`KINDS`.
        lr, warmup_lr, floor: peak, first and last rate.
        epochs, warmup_epochs: length of the schedule, its warm-up included.
        steps_per_epoch: global steps in an epoch.
        unit: "epoch" or "step": how often the rate changes.
        decay: how it falls.

    Raises:
        ValueError: the lengths make no schedule.
    """

    kind: str
    lr: float
    warmup_lr: float
    floor: float
    epochs: int
    warmup_epochs: int
    steps_per_epoch: int
    unit: str
    decay: Decay = field(default_factory=Decay)

    def __post_init__(self) -> None:
        # A scheduler works on an optimizer; this one holds nothing but the rate.
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1, device="cpu"))], lr=self.lr)
        by_epoch = self.unit == "epoch"
        try:
            self._scheduler: Any = create_scheduler_v2(
                self._optimizer,
                sched=self.kind,
                num_epochs=self.epochs,
                warmup_epochs=self.warmup_epochs,
                warmup_lr=self.warmup_lr,
                min_lr=self.floor,
                decay_epochs=self.decay.epochs,
                decay_milestones=list(self.decay.milestones),
                decay_rate=self.decay.rate,
                step_on_epochs=by_epoch,
                updates_per_epoch=0 if by_epoch else self.steps_per_epoch,
            )[0]
        except (AssertionError, ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"recipe.schedule={self.kind} with epochs={self.epochs}, recipe.warmup_epochs={self.warmup_epochs}, "
                f"recipe.decay_epochs={self.decay.epochs}: {error}"
            ) from error

    def __call__(self, step: int) -> float:
        """Learning rate of global step `step` (0-based)."""
        if self.unit == "epoch":
            self._scheduler.step(step // self.steps_per_epoch)
        else:
            self._scheduler.step_update(step)
        return float(self._optimizer.param_groups[0]["lr"])
