"""The settings of a run's training loop, and how a run ended."""

from dataclasses import dataclass
from typing import Literal

from vitaos.engine.progress import Progress


@dataclass(frozen=True)
class Settings:
    """Numbers and switches of the training loop.

    Attributes:
        epochs: epochs of the run.
        batch_size: images of a micro-batch on one process.
        steps: stop after so many global steps in all; the schedule does not depend on it.
        accumulate: micro-batches in a global step, on each process.
        clip: bound on the norm of the gradient; None for none.
        nonfinite: "stop" or "skip"; see :class:`vitaos.engine.update.Guard`.
        log_every: steps between two readings of loss and norm.
        checkpoint_every: steps between two checkpoints within an epoch; None for the ends of epochs only.
        evaluate_every: epochs between two evaluations; the last epoch always has one.
        seed: of dropout and drop path.
        compile: compile the model's forward pass with torch.compile: see :func:`vitaos.engine.compilation.choose`.
        static_shapes: compile once for each size of images, instead of once for all sizes.
        channels_last: keep images and convolutions in channels-last memory order.
        checkpoint_gradients: recompute activations in the backward pass (timm's `set_grad_checkpointing`).
    """

    epochs: int
    batch_size: int
    steps: int | None = None
    accumulate: int = 1
    clip: float | None = None
    nonfinite: str = "stop"
    log_every: int = 50
    checkpoint_every: int | None = None
    evaluate_every: int = 1
    seed: int = 0
    compile: bool | str = False
    static_shapes: bool = False
    channels_last: bool = False
    checkpoint_gradients: bool = False

    def total_steps(self, steps_per_epoch: int) -> int:
        """Global steps of the whole run."""
        steps = self.epochs * steps_per_epoch
        return steps if self.steps is None else min(self.steps, steps)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with all its steps, or asked to leave with its state saved; and where it stands."""

    status: Literal["finished", "preempted"]
    progress: Progress
