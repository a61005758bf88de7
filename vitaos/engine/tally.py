"""The running counts of one model over the images of one rank, and their sum over all.

Shapes: B images of a batch, K classes that are asked for.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitaos.engine.calibration import ConfidenceTable
from vitaos.engine.evaluation_result import EvaluationResult, Predictions
from vitaos.runtime.world import World


class EvaluationInterrupted(Exception):  # noqa: N818 - not an error: a rank was asked to leave
    """An evaluation was given up, on all ranks alike, because one was asked to leave."""


class Tally:
    """What one model answered. Nothing here waits for the device before :meth:`result`.

    Args:
        classes: K.
        images: of the whole dataset.
        world: the processes.
        keep_predictions, keep_confidences: whether the result is to hold them.
    """

    def __init__(
        self, classes: int, images: int, world: World, *, keep_predictions: bool, keep_confidences: bool
    ) -> None:
        self._world = world
        # In one float64 vector on the device: integers up to 2^53 are exact in it.
        self._vector = torch.zeros(3 * classes + 3, dtype=torch.float64, device=world.device)
        self._by_class = self._vector[: 3 * classes].view(3, classes)
        self._loss, self._interrupted = self._vector[-3], self._vector[-2]
        self._vector[-1] = images
        self._predictions = _PredictionTable(images, world.device) if keep_predictions else None
        self._confidences = ConfidenceTable(images, world.device) if keep_confidences else None

    @property
    def by_image(self) -> bool:
        """Whether the places of the images in the dataset are needed."""
        return self._predictions is not None or self._confidences is not None

    def interrupt(self) -> None:
        """Note that this rank was asked to leave."""
        self._interrupted += 1

    def add(self, logits_BK: Tensor, targets_B: Tensor, accepted_BK: Tensor | None, positions_B: Tensor | None) -> None:
        """Count a batch: float32 logits; where given, which answers count as right, and the images' places."""
        answers_B, right_B, judged_B = self._count(logits_BK, targets_B, accepted_BK)
        if positions_B is None:
            return
        if self._predictions is not None:
            self._predictions.add(positions_B, targets_B, answers_B, right_B)
        if self._confidences is not None:
            self._confidences.add(positions_B, logits_BK, targets_B, right_B, judged_B)

    def _count(self, logits_BK: Tensor, targets_B: Tensor, accepted_BK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The first answer of each image (-1 where its logits are not finite), whether it is right, and whether the
        image counts."""
        if accepted_BK is None:
            accepted_BK = targets_B[:, None] == torch.arange(logits_BK.shape[1], device=targets_B.device)
        judged_B = accepted_BK.any(1)
        top_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
        # topk puts NaN first, so an answer that is not a number must not count as right.
        finite_B1 = torch.isfinite(logits_BK).all(1, keepdim=True)
        right_B5 = accepted_BK.gather(1, top_B5) & finite_B1
        rows = torch.stack([judged_B, right_B5[:, 0], right_B5.any(1)]).to(torch.float64)
        self._by_class.index_add_(1, targets_B, rows)
        losses_B = F.cross_entropy(logits_BK, targets_B, reduction="none").double()
        self._loss += torch.where(judged_B, losses_B, 0.0).sum()
        return torch.where(finite_B1[:, 0], top_B5[:, 0], -1), right_B5[:, 0], judged_B

    def result(self, *, every_image: bool) -> EvaluationResult:
        """The counts of all ranks together; a collective call.

        Args:
            every_image: whether each image of the dataset has to count.

        Raises:
            EvaluationInterrupted: any rank was asked to leave.
            ValueError: no image was judged, or not every image once where each has to count; on all ranks alike, and
                before they add up tables whose sizes differ where their datasets do.
        """
        counted = self._sum(every_image)
        return replace(
            counted,
            predictions=None if self._predictions is None else self._predictions.result(self._world),
            confidences=None if self._confidences is None else self._confidences.result(self._world),
        )

    def _sum(self, every_image: bool) -> EvaluationResult:
        *by_class, loss, interrupted, of_all_ranks = self._world.all_reduce(self._vector).cpu().numpy()
        if interrupted > 0:
            raise EvaluationInterrupted
        rows = np.array(by_class).reshape(3, -1).astype(np.int64)
        count, correct1, correct5 = (int(total) for total in rows.sum(1))
        if count == 0:
            raise ValueError(
                "no image was left to evaluate: the dataset is empty, or none of its images has a label that counts"
            )
        images = float(of_all_ranks) / self._world.size
        if every_image and count != images:
            raise ValueError(
                f"{count} images were evaluated, the dataset has {images:g}: the ranks see different data, or some of "
                "it was left out"
            )
        return EvaluationResult(count, correct1, correct5, float(loss) / count, *rows)


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
