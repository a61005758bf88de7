"""Learning-rate schedules as pure functions of the global step, so that a resumed run needs nothing but its step."""

import math
from dataclasses import dataclass
from typing import Final

from vitaos.engine import timm_schedule
from vitaos.engine.protocols import Schedule
from vitaos.engine.timm_schedule import Decay, TimmSchedule

KINDS: Final = ("release", "textbook", *timm_schedule.KINDS)
UNITS: Final = ("epoch", "step")


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then a cosine down to a floor, in units of `unit_steps` global steps.

    Attributes:
        lr: peak of the cosine.
        warmup_lr: first value of the warm-up.
        floor: last value of the cosine.
        length: units of the whole schedule.
        warmup: units of the warm-up.
        unit_steps: global steps in a unit: an epoch's for a schedule stepped each epoch, 1 for one stepped each step.
        kind: "release" cuts the warm-up out of the cosine's beginning (timm's CosineLRScheduler without a warm-up
            prefix) and runs one unit late, since the release steps its scheduler after a unit with that unit's
            number: units 0 and 1 both run at the warm-up's first value. "textbook" starts the cosine at its peak when
            the warm-up ends.
    """

    lr: float
    warmup_lr: float
    floor: float
    length: int
    warmup: int
    unit_steps: int
    kind: str

    def __call__(self, step: int) -> float:
        """Learning rate of global step `step` (0-based)."""
        unit = step // self.unit_steps
        if self.kind == "release":
            unit = max(unit - 1, 0)
        if unit < self.warmup:
            return self.warmup_lr + unit * (self.lr - self.warmup_lr) / self.warmup
        begin = 0 if self.kind == "release" else self.warmup
        if unit >= self.length:
            return self.floor
        angle = math.pi * (unit - begin) / (self.length - begin)
        return self.floor + 0.5 * (self.lr - self.floor) * (1 + math.cos(angle))


def build_schedule(
    kind: str = "release",
    *,
    lr: float,
    warmup_lr: float,
    floor: float,
    epochs: int,
    warmup_epochs: float,
    steps_per_epoch: int,
    unit: str = "epoch",
    decay: Decay | None = None,
) -> Schedule:
    """Schedule of a recipe (paper.md's table; rates already scaled to the global batch, see `scaled_lr`).

    Args:
        kind: "release" or "textbook"; see :class:`WarmupCosine`; or one of timm's (``timm_schedule.KINDS``).
        lr, warmup_lr, floor: peak, first and last rate.
        epochs, warmup_epochs: length of the schedule and of its warm-up.
        steps_per_epoch: global steps in an epoch.
        unit: how often the rate changes: "epoch" (DeiT, CaiT) or "step" (Swin). The "textbook" kind changes at each
            step.
        decay: how timm's kinds fall.

    Raises:
        ValueError: unknown kind or unit, or lengths that make no schedule.
    """
    if kind not in KINDS:
        raise ValueError(f"schedule kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if unit not in UNITS:
        raise ValueError(f"schedule unit={unit!r} is unknown; choose one of {', '.join(UNITS)}")
    if steps_per_epoch < 1:
        raise ValueError(
            "the training set holds no whole global step of batch_size x accumulate x processes images: "
            "lower batch_size"
        )
    if epochs < 1 or warmup_epochs < 0:
        raise ValueError(f"a schedule needs epochs >= 1 and warmup_epochs >= 0, got {epochs} and {warmup_epochs}")
    if kind in timm_schedule.KINDS:
        return TimmSchedule(
            kind, lr, warmup_lr, floor, epochs, int(warmup_epochs), steps_per_epoch, unit, decay or Decay()
        )
    by_epoch = kind == "release" and unit == "epoch"
    units_per_epoch = 1 if by_epoch else steps_per_epoch
    return WarmupCosine(
        lr=lr,
        warmup_lr=warmup_lr,
        floor=floor,
        length=epochs * units_per_epoch,
        warmup=int(warmup_epochs * units_per_epoch),
        unit_steps=steps_per_epoch if by_epoch else 1,
        kind=kind,
    )
