"""What a cell of a study cost to train, and whether that is what the plain network was given.

Epochs and images are read from the run; parameters and the work of one image come from whoever builds the models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vitaos.study.runs import Run

__all__ = ["TRAINING_PASSES", "Budget", "CostOf", "ModelCost", "budget_of", "excess"]

TRAINING_PASSES: Final = 3
"""A training step costs three forward passes: the backward pass is two products for each of the forward one."""


@dataclass(frozen=True)
class ModelCost:
    """A model's parameters, and the floating-point operations of one image's forward pass.

    Operations are those of matrix products and convolutions, two for each multiplication and addition; elementwise
    operations are not counted.
    """

    parameters: int
    flops: int


CostOf = Callable[[Run], ModelCost | None]
"""The cost of a run's model; None where the model cannot be built from what the folder says."""


@dataclass(frozen=True)
class Budget:
    """What one run of a cell spent.

    Attributes:
        epochs: passes over the training set.
        images: training images seen; None where the run does not record its global batch.
        model: the model's cost; None where unknown.
    """

    epochs: int
    images: int | None
    model: ModelCost | None

    @property
    def training_flops(self) -> float | None:
        """Operations of the whole training; None where images or model are unknown."""
        if self.images is None or self.model is None:
            return None
        return float(TRAINING_PASSES * self.model.flops) * self.images


def budget_of(run: Run, cost_of: CostOf | None) -> Budget:
    """What a finished run spent."""
    return Budget(run.epochs_done, run.images_seen, cost_of(run) if cost_of else None)


def excess(budget: Budget, plain: Budget, tolerance: float) -> str:
    """In what a budget exceeds plain's by more than `tolerance` (0.2: a fifth), as text; empty if in none."""
    if budget.model is None or plain.model is None:
        return ""
    pairs = {
        "parameters": (budget.model.parameters, plain.model.parameters),
        "operations an image": (budget.model.flops, plain.model.flops),
    }
    found = [f"x{own / base:.2f} {name}" for name, (own, base) in pairs.items() if own > base * (1 + tolerance)]
    return " and ".join(found)
