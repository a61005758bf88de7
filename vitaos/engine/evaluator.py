"""Exact evaluation: every image counts once, whatever the number of processes.

Shapes: B images of a batch, C classes that the model answers, K classes that are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vitaos.engine.calibration import Confidences, ConfidenceTable
from vitaos.engine.precision import Precision
from vitaos.engine.protocols import EvaluationLoader
from vitaos.runtime.world import World

Images = Callable[[Tensor], Tensor]


class EvaluationInterrupted(Exception):  # noqa: N818 - not an error: a rank was asked to leave
    """An evaluation was given up, on all ranks alike, because one was asked to leave."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted for every image of a dataset of N, by its index there.

    Attributes:
        target: (N,) int32, the dataset's own label; -1 for an image that was not evaluated.
        predicted: (N,) int32, the first answer; -1 for an image that was not evaluated or whose logits are not finite.
        correct: (N,) bool, whether the first answer counts as right.
    """

    target: NDArray[np.int32]
    predicted: NDArray[np.int32]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class EvaluationResult:
    """Counts over a dataset and what follows from them.

    Attributes:
        count, correct1, correct5: images; those whose label is the first answer, and among the first five (or all,
            where there are fewer classes).
        loss: mean cross-entropy.
        class_count, class_correct1, class_correct5: (K,) int64, the same by class.
        predictions: of every image, where they were asked for.
        confidences: of the images that count, where they were asked for.
    """

    count: int
    correct1: int
    correct5: int
    loss: float
    class_count: NDArray[np.int64]
    class_correct1: NDArray[np.int64]
    class_correct5: NDArray[np.int64]
    predictions: Predictions | None = None
    confidences: Confidences | None = None

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100.0 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Per cent."""
        return 100.0 * self.correct5 / self.count

    def metrics(self) -> dict[str, float]:
        """{"top1", "top5", "loss"}, as the trainer's `evaluate` is to return them."""
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}


class _Counts:
    """Running counts of one rank, on the device, in one float64 vector: integers up to 2^53 are exact in it."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.vector = torch.zeros(3 * classes + 2, dtype=torch.float64, device=device)
        self.by_class = self.vector[: 3 * classes].view(3, classes)
        self.loss = self.vector[-2]
        self.interrupted = self.vector[-1]


class _PredictionTable:
    """A row a fact and a column an image, filled by each rank for its own images; the sum over ranks is the whole."""

    def __init__(self, images: int, device: torch.device) -> None:
        self.table = torch.zeros(3, images, dtype=torch.int32, device=device)  # 0 is "not evaluated"

    def add(self, positions_B: Tensor, targets_B: Tensor, answers_B: Tensor, right_B: Tensor) -> None:
        rows = torch.stack([targets_B + 1, answers_B + 1, right_B])
        self.table[:, positions_B] = rows.to(self.table.dtype)

    def result(self, world: World) -> Predictions:
        target, predicted, correct = world.all_reduce(self.table).cpu().numpy()
        return Predictions(target - 1, predicted - 1, correct.astype(np.bool_))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EvaluationLoader,
    transform: Images,
    *,
    world: World,
    precision: Precision,
    num_classes: int,
    class_indices: Sequence[int] | None = None,
    real_labels: Sequence[Sequence[int]] | None = None,
    interrupted: Callable[[], bool] | None = None,
    keep_predictions: bool = False,
    keep_confidences: bool = False,
) -> EvaluationResult:
    """Evaluate a model on all ranks together; each sees its share of the images, and one all-reduce adds the counts.

    Args:
        model: not wrapped in DDP; left in the mode it came in.
        loader: this rank's share, possibly empty.
        transform: uint8 images (B, 3, H, W) on the device to normalized float images.
        num_classes: K, classes of the dataset: targets lie in [0, K).
        class_indices: which K of the model's C answers belong to the dataset's classes, in their order (ImageNet-A
            and -R have 200 of the 1000 classes).
        real_labels: for each image of the dataset the labels that count as right ("ImageNet ReaL"); images without
            any are left out, the classes of the result and the loss stay those of the dataset's own labels.
        interrupted: asked before each batch; once true on any rank, all ranks raise `EvaluationInterrupted` at the end.
        keep_predictions: return what was predicted for every image as well.
        keep_confidences: return how sure the model was of every image as well.

    Raises:
        EvaluationInterrupted: see `interrupted`.
        ValueError: the labels do not fit the number of classes or answers, no image was left to evaluate, or not every
            image of the dataset was evaluated once.
    """
    counts = _Counts(num_classes, world.device)
    table = _PredictionTable(loader.num_images, world.device) if keep_predictions else None
    confidences = ConfidenceTable(loader.num_images, world.device) if keep_confidences else None
    indices = None if class_indices is None else torch.tensor(class_indices, dtype=torch.int64, device=world.device)
    was_training, full = model.training, 0
    model.eval()
    try:
        for batch in loader:
            if interrupted is not None and interrupted():
                counts.interrupted += 1
                break
            _check_targets(batch.targets, num_classes)
            accepted = None if real_labels is None else _accepted(real_labels, batch.positions, num_classes)
            images = transform(batch.images.to(world.device, non_blocking=True))
            targets = batch.targets.to(world.device, non_blocking=True)
            full = max(full, len(images))
            with precision.autocast():
                logits_BC = _answers(model, images, full)
            logits_BK = (logits_BC if indices is None else logits_BC[:, indices]).float()
            _check_answers(logits_BK.shape[1], num_classes)
            on_device = None if accepted is None else _without_waiting(accepted, world.device)
            answers_B, right_B, judged_B = _add(counts, logits_BK, targets, on_device)
            if table is None and confidences is None:
                continue
            places_B = _without_waiting(batch.positions, world.device)
            if table is not None:
                table.add(places_B, targets, answers_B, right_B)
            if confidences is not None:
                confidences.add(places_B, logits_BK, targets, right_B, judged_B)
    finally:
        model.train(was_training)
    world.all_reduce(counts.vector)
    expected = world.all_reduce(torch.tensor(loader.num_images, device=world.device))
    result = _result(counts)
    if real_labels is None and result.count * world.size != int(expected):
        raise ValueError(
            f"{result.count} images were evaluated, the dataset has {int(expected) / world.size:g}: the ranks see "
            "different data, or some of it was left out"
        )
    return replace(
        result,
        predictions=None if table is None else table.result(world),
        confidences=None if confidences is None else confidences.result(world),
    )


def _without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, by way of page-locked memory where it is CUDA: a copy out of other memory waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _answers(model: nn.Module, images: Tensor, full: int) -> Tensor:
    """Logits of a batch. A compiled model is given a partial one filled up, since another size would compile again."""
    count = len(images)
    if count < full and model._compiled_call_impl is not None:
        images = torch.cat([images, images[-1:].expand(full - count, *images.shape[1:])])
    logits: Tensor = model(images)
    return logits[:count]


def _add(
    counts: _Counts, logits_BK: Tensor, targets_B: Tensor, accepted_BK: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a batch to the counts; `accepted_BK` is true where an answer counts as right.

    Returns:
        The first answer of each image (-1 where its logits are not finite), whether it is right, and whether the image
        counts.
    """
    if accepted_BK is None:
        accepted_BK = targets_B[:, None] == torch.arange(logits_BK.shape[1], device=targets_B.device)
    judged_B = accepted_BK.any(1)
    top_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
    # topk puts NaN first, so an answer that is not a number must not count as right.
    finite_B1 = torch.isfinite(logits_BK).all(1, keepdim=True)
    right_B5 = accepted_BK.gather(1, top_B5) & finite_B1
    rows = torch.stack([judged_B, right_B5[:, 0], right_B5.any(1)]).to(torch.float64)
    counts.by_class.index_add_(1, targets_B, rows)
    losses_B = F.cross_entropy(logits_BK, targets_B, reduction="none").double()
    counts.loss += torch.where(judged_B, losses_B, 0.0).sum()
    return torch.where(finite_B1[:, 0], top_B5[:, 0], -1), right_B5[:, 0], judged_B


def _accepted(real_labels: Sequence[Sequence[int]], positions_B: Tensor, num_classes: int) -> Tensor:
    """(B, K) bool: which answers count as right for the images at `positions_B` of the dataset."""
    accepted_BK = torch.zeros(len(positions_B), num_classes, dtype=torch.bool)
    for row, position in enumerate(positions_B.tolist()):
        accepted_BK[row, list(real_labels[position])] = True
    return accepted_BK


def _check_targets(targets_B: Tensor, num_classes: int) -> None:
    # Still on the host, where looking costs nothing; on the device an index out of range kills the CUDA context.
    if len(targets_B) and int(targets_B.max()) >= num_classes:
        raise ValueError(
            f"an image has label {int(targets_B.max())}, but the dataset is said to have {num_classes} classes"
        )


def _check_answers(answers: int, num_classes: int) -> None:
    if answers != num_classes:
        raise ValueError(
            f"the model answers {answers} classes, the data have {num_classes}. Build the model with "
            f"num_classes={num_classes}, or say which answers count (class_indices)"
        )


def _result(counts: _Counts) -> EvaluationResult:
    vector = counts.vector.cpu().numpy()
    if vector[-1] > 0:
        raise EvaluationInterrupted
    by_class = vector[:-2].reshape(3, -1).astype(np.int64)
    count, correct1, correct5 = (int(total) for total in by_class.sum(1))
    if count == 0:
        raise ValueError(
            "no image was left to evaluate: the dataset is empty, or none of its images has a label that counts"
        )
    return EvaluationResult(count, correct1, correct5, float(vector[-2]) / count, *by_class)
