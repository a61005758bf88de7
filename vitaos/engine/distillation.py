"""Distillation: a frozen teacher's answers to a student's images, and the loss that follows them (arXiv 2012.12877).

The teacher's logits are part of a batch's targets, so the training loop knows nothing of it. timm.task has the same
losses; its tasks wrap the student, and compare means and standard deviations on the device in each step, for which a
GPU would be waited for.

Shapes: B images, C classes.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.batch import Batch, Targets
from vitaos.engine.compilation import EAGER, Compilation
from vitaos.engine.precision import Precision
from vitaos.engine.protocols import TrainTransform

KINDS: Final = ("hard", "soft")


class TaughtTargets(NamedTuple):
    """Targets of a batch: its labels, as a loss without a teacher takes them, and the teacher's logits (B, C), fp32."""

    labels: Targets
    teacher: Tensor


class Teacher:
    """A trained model that answers a student's images; never trained, in evaluation mode whatever the student's.

    Args:
        model: on its device.
        img_size: (height, width) in pixels of the images that it takes; others are resized (bicubic).
        mean, std: how its images are normalized, by channel.
        student_mean, student_std: how the images that come are.
        precision: number format of its forward pass.
        compilation: whether and how its forward pass is compiled.
        identity: what makes its answers what they are, as plain values, for checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        img_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        student_mean: Sequence[float],
        student_std: Sequence[float],
        precision: Precision,
        compilation: Compilation = EAGER,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.img_size, self.precision, self.identity = img_size, precision, identity or {}
        self._is_alike = list(mean) == list(student_mean) and list(std) == list(student_std)
        device = next(model.parameters()).device
        own_mean, own_std, their_mean, their_std = (
            torch.tensor(list(values), dtype=torch.float64) for values in (mean, std, student_mean, student_std)
        )
        self._scale = (their_std / own_std).float().view(-1, 1, 1).to(device)
        self._shift = ((their_mean - own_mean) / own_std).float().view(-1, 1, 1).to(device)
        compilation.apply(self.model)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, C), fp32, of images (B, 3, H, W) that are normalized as the student's are."""
        images = self.prepare(images)
        with self.precision.autocast():
            logits: Tensor = self.model(images)
        return logits.to(torch.float32, copy=True)  # what a CUDA graph gives lasts until its next pass

    def prepare(self, images: Tensor) -> Tensor:
        """The images in the teacher's own normalization and size."""
        if not self._is_alike:
            images = images * self._scale + self._shift
        if tuple(images.shape[-2:]) != self.img_size:
            images = F.interpolate(images, self.img_size, mode="bicubic", antialias=True)
        return images


class TaughtTransform:
    """A training transform whose targets hold the teacher's answers to the very images that the student sees."""

    def __init__(self, transform: TrainTransform, teacher: Teacher) -> None:
        self.transform, self.teacher = transform, teacher

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, TaughtTargets]:
        images, labels = self.transform(batch, epoch=epoch, step=step)
        return images, TaughtTargets(labels, self.teacher(images))


class DistillationLoss(nn.Module):
    """(1 - alpha) x the loss of the labels + alpha x the loss towards the teacher.

    A student with a distillation token answers twice: the class token's answer is held against the labels, the
    distillation token's against the teacher. Any other answers once, for both.

    Args:
        labels_loss: the loss that is trained without a teacher.
        kind: "hard": cross-entropy with the teacher's first answer; "soft": T^2 KL(teacher / T, student / T).
        alpha: share of the teacher.
        temperature: T of "soft"; without effect on "hard".
        reduction: of "soft": "mean" divides by images x classes, as DeiT's code does, "batchmean" by images, as its
            paper and timm.task do.

    Raises:
        ValueError: unknown kind or reduction, or numbers out of range.
    """

    def __init__(
        self,
        labels_loss: nn.Module,
        *,
        kind: str,
        alpha: float = 0.5,
        temperature: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"distillation={kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if not 0.0 <= alpha <= 1.0 or temperature <= 0:
            raise ValueError(
                f"distillation needs alpha in [0, 1] and a temperature above 0, got {alpha}, {temperature}"
            )
        if reduction not in ("mean", "batchmean"):
            raise ValueError(f"distillation reduction={reduction!r} is unknown; choose mean or batchmean")
        self.labels_loss, self.kind, self.reduction = labels_loss, kind, reduction
        self.alpha, self.temperature = alpha, temperature

    def forward(self, outputs: Tensor | tuple[Tensor, Tensor], targets: TaughtTargets) -> Tensor:
        of_class, of_teacher = (outputs, outputs) if isinstance(outputs, Tensor) else outputs
        labels_loss: Tensor = self.labels_loss(of_class, targets.labels)
        return (1 - self.alpha) * labels_loss + self.alpha * self._towards_teacher(of_teacher.float(), targets.teacher)

    def _towards_teacher(self, logits_BC: Tensor, teacher_BC: Tensor) -> Tensor:
        if self.kind == "hard":
            return F.cross_entropy(logits_BC, teacher_BC.argmax(1))
        student, teacher = ((logits / self.temperature).log_softmax(1) for logits in (logits_BC, teacher_BC))
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2
        return divergence / logits_BC.shape[1] if self.reduction == "mean" else divergence


def has_distillation_token(model: Any) -> bool:
    """Whether a model of timm has a second token and classifier, trained apart (DeiT distilled, LeViT, ...)."""
    return hasattr(model, "set_distilled_training")


def choose_token(model: Any, wanted: str) -> None:
    """Make a model answer with both classifiers in training, or with their mean: "distillation" or "class".

    "auto" means the distillation token where the model has one.

    Raises:
        ValueError: the distillation token is asked for, and the model has none.
    """
    if not has_distillation_token(model):
        if wanted == "distillation":
            raise ValueError(
                f"recipe.distillation_token=distillation: {type(model).__name__} has no distillation token. Take a "
                "model that has one (model=deit_small_distilled_patch16_224), or recipe.distillation_token=class"
            )
        return
    model.set_distilled_training(wanted != "class")
