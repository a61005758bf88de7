"""Distillation's loss against DeiT's formula and timm's tasks, and which token learns from the teacher."""

import pytest
import timm
import torch
import torch.nn.functional as F
from miniature import tiny_vit
from timm.task import LogitDistillationTask, TokenDistillationTask
from torch import nn

from vitaos.engine.distillation import DistillationLoss, TaughtTargets, Teacher, choose_token
from vitaos.engine.loss import CrossEntropy
from vitaos.engine.precision import build_precision

_SMALL = {"num_classes": 5, "img_size": 32, "patch_size": 16, "embed_dim": 32, "num_heads": 2, "depth": 1}


def distilled() -> nn.Module:
    return timm.create_model("deit_tiny_distilled_patch16_224", **_SMALL)


def teacher_of(model: nn.Module, mean: float = 0.5, size: int = 32) -> Teacher:
    return Teacher(
        model, img_size=(size, size), mean=[mean] * 3, std=[0.25] * 3, student_mean=[0.485, 0.456, 0.406],
        student_std=[0.229, 0.224, 0.225], precision=build_precision("fp32", torch.device("cpu")),
    )  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_is_deits(kind: str, reduction: str) -> None:
    """Soft as its code has it: KL with log targets, summed, x T^2 / number of elements (or of images)."""
    torch.manual_seed(0)
    first, second, answers = torch.randn(3, 4, 7)
    labels = torch.tensor([0, 3, 6, 2])
    loss = DistillationLoss(CrossEntropy(0.1), kind=kind, alpha=0.3, temperature=3.0, reduction=reduction)
    hard = F.cross_entropy(second, answers.argmax(1))
    p, q = (answers / 3).softmax(1), (second / 3).softmax(1)
    soft = (p * (p / q).log()).sum() * 9 / (28 if reduction == "mean" else 4)
    wanted = 0.7 * F.cross_entropy(first, labels, label_smoothing=0.1) + 0.3 * (soft if kind == "soft" else hard)
    torch.testing.assert_close(loss((first, second), TaughtTargets(labels, answers)), wanted)
    mixed = F.one_hot(labels, 7).float()
    torch.testing.assert_close(loss((first, second), TaughtTargets(mixed, answers)), wanted)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_step_is_that_of_timms_tasks(kind: str) -> None:
    torch.manual_seed(0)
    student, model = distilled(), timm.create_model("test_vit", num_classes=5, img_size=32)
    task = TokenDistillationTask(
        student, model, criterion=nn.CrossEntropyLoss(), distill_type=kind, task_loss_weight=0.4, temperature=2.0,
        verbose=False,
    ).train()  # fmt: skip
    cfg, own = model.pretrained_cfg, student.pretrained_cfg
    teacher = Teacher(
        model, img_size=(32, 32), mean=cfg["mean"], std=cfg["std"], student_mean=own["mean"], student_std=own["std"],
        precision=build_precision("fp32", torch.device("cpu")),
    )  # fmt: skip
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 4, 2])
    loss = DistillationLoss(CrossEntropy(), kind=kind, alpha=0.6, temperature=2.0, reduction="batchmean")
    targets = TaughtTargets(labels, teacher(images))
    torch.testing.assert_close(loss(student(images), targets), task(images, labels)["loss"])
    if kind == "soft":  # of a model without the token
        plain = timm.create_model("deit_tiny_patch16_224", **_SMALL)
        task = LogitDistillationTask(
            plain, model, criterion=nn.CrossEntropyLoss(), task_loss_weight=0.4, temperature=2.0, verbose=False
        )
        torch.testing.assert_close(loss(plain(images), targets), task(images, labels)["loss"])


def test_the_teacher_sees_its_own_normalization_and_size() -> None:
    teacher = teacher_of(tiny_vit(), mean=0.3, size=48)
    pixels = torch.rand(2, 3, 32, 32)
    shift, scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = teacher.prepare((pixels - shift.view(-1, 1, 1)) / scale.view(-1, 1, 1))
    wanted = F.interpolate((pixels - 0.3) / 0.25, (48, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)
    assert not teacher.model.training


def test_tokens() -> None:
    model, images = distilled(), torch.randn(2, 3, 32, 32)
    for wanted, answers in (("auto", tuple), ("class", torch.Tensor), ("distillation", tuple)):
        choose_token(model, wanted)
        assert isinstance(model.train()(images), answers)
        assert isinstance(model.eval()(images), torch.Tensor)
    choose_token(tiny_vit(), "auto")
    with pytest.raises(ValueError, match="has no distillation token"):
        choose_token(tiny_vit(), "distillation")
    with pytest.raises(ValueError, match="choose one of hard, soft"):
        DistillationLoss(CrossEntropy(), kind="warm")
