"""What the trainer expects of the objects it is given: each is implemented elsewhere and known here by its shape."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from vitaos.batch import Batch

Metrics = dict[str, float]
Evaluate = Callable[[Sequence[nn.Module]], Sequence[Metrics]]
"""Evaluates models on the same images, on all ranks together: {"top1", "top5", "loss", ...} of each; raises
EvaluationInterrupted on all alike."""

Observe = Callable[[nn.Module, int, bool], Mapping[str, float]]
"""Further measurements of a model after an epoch (0-based; whether it is the run's last), by the names they get in the
metrics."""


class TrainLoader(Protocol):
    """Micro-batches of this rank, addressed by epoch and global step."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def images_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]: ...


class TrainingPass(Protocol):
    """What a model's techniques have to do with a training step."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the terms that they add to the loss: the same in every step and on every rank."""

    def __call__(self, step: int) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Context of the forward and backward passes of a global step; gives the terms, complete after the forward."""


class EvaluationLoader(Protocol):
    """This rank's share of a dataset in which every image counts once; may be empty."""

    @property
    def num_images(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class TrainTransform(Protocol):
    """Augmentation on the device: a function of the batch, the epoch and the global step."""

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Any]:
        """Images, and targets as the loss takes them."""


class Schedule(Protocol):
    """Learning rate as a pure function of the global step."""

    def __call__(self, step: int) -> float: ...


class Checkpoints(Protocol):
    """Writes states behind the loop. Called on the main rank only."""

    def save(
        self,
        state: Mapping[str, Any],
        *,
        step: int,
        kind: Literal["last", "best", "both"] = "last",
        block: bool = False,
    ) -> bool:
        """Copy `state` before returning and write it; with `block`, return when it is on disk."""

    def flush(self) -> Any:
        """Return when everything saved so far is on disk or has failed."""


class Preemption(Protocol):
    """Whether this process was asked to leave."""

    @property
    def requested(self) -> bool: ...


class Sink(Protocol):
    """Receives the numbers of a run. Called on the main rank only."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps, every `log_every` steps."""

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch (or of the end of a run within an epoch)."""

    def rewind(self, step: int) -> None:
        """A run starts or continues: of the lines given to :meth:`metrics`, those up to `step` belong to it."""


class SaveState(Protocol):
    """Gathers the state of a run on all ranks and has it written."""

    def __call__(self, *, kind: Literal["last", "best", "both"] = "last", block: bool = False) -> None: ...
