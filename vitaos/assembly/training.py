"""The trainer of a configuration: what train.py, the benchmark of whole runs and the tests on the null GPU share."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vitaos import techniques
from vitaos.assembly import builders
from vitaos.config import RecipeConfig, TrainConfig
from vitaos.engine.distillation import DistillationLoss, TaughtTransform, Teacher, choose_token
from vitaos.engine.freezing import freeze, frozen_modules
from vitaos.engine.loss import build_loss
from vitaos.engine.mixed_labels import AttendedLabels
from vitaos.engine.precision import build_precision
from vitaos.engine.protocols import Checkpoints, Evaluate, Observe, Preemption, Sink, TrainLoader, TrainTransform
from vitaos.engine.settings import Settings
from vitaos.engine.throughput import Throughput
from vitaos.engine.trainer import Trainer
from vitaos.runtime.world import World
from vitaos.techniques.class_row_watch import watch_class_row


def build_trainer(
    config: TrainConfig,
    model: nn.Module,
    loader: TrainLoader,
    world: World,
    *,
    num_classes: int,
    evaluate: Evaluate,
    observe: Observe | None = None,
    preemption: Preemption | None = None,
    checkpoints: Checkpoints | None = None,
    sinks: Sequence[Sink] = (),
    throughput: Throughput | None = None,
    identity: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    teacher: Teacher | None = None,
) -> Trainer:
    """A trainer of `model` by the configuration's recipe.

    Args:
        config: the run's.
        model: on `world.device` already.
        loader: this rank's micro-batches, of `num_classes` classes.
        world: the processes.
        num_classes: classes of the data, which mixup and CutMix mix.
        evaluate, observe, preemption, checkpoints, sinks, throughput, identity: as
            :class:`vitaos.engine.trainer.Trainer` takes them.
        settings: by default the configuration's.
        teacher: whom the model learns from, for ``recipe.distillation``.

    Raises:
        ValueError: the optimizer, the schedule or the model cannot be had as the configuration asks.
    """
    freeze(model, config.recipe.freeze)
    transform: TrainTransform = builders.build_train_transform(config, num_classes)
    if teacher is not None:
        choose_token(model, config.recipe.distillation_token)
        transform = TaughtTransform(transform, teacher)
    schedule = builders.build_schedule(config, loader.steps_per_epoch, world.size)
    loss = build_training_loss(config.recipe, model)  # before the training pass, which serves it
    return Trainer(
        model=model,
        loss=loss,
        optimizer=builders.build_optimizer(config, model, schedule),
        schedule=schedule,
        loader=loader,
        transform=transform,
        evaluate=evaluate,
        observe=observe,
        training_pass=techniques.training_pass(model, loader.steps_per_epoch),
        ema=builders.build_ema(config, model),
        precision=build_precision(config.precision, world.device),
        settings=settings or builders.build_settings(config),
        world=world,
        preemption=preemption,
        checkpoints=checkpoints,
        sinks=sinks,
        throughput=throughput,
        identity=identity,
        frozen=frozen_modules(model, config.recipe.freeze),
    )


def build_training_loss(recipe: RecipeConfig, model: nn.Module) -> nn.Module:
    """The loss of a recipe: of the labels, and towards a teacher where it distills.

    Args:
        recipe: the run's.
        model: that is trained; where its attention weighs the labels (``mix_labels``), its last block leaves that in
            every training pass from now on.

    Raises:
        ValueError: settings that do not go together, or labels that this model cannot weigh.
    """
    loss = build_loss(
        recipe.loss,
        smoothing=recipe.smoothing,
        bce_threshold=recipe.bce_threshold,
        bce_sum=recipe.bce_sum,
        jsd_views=recipe.jsd_views,
    )
    if recipe.mix_labels != "area":
        try:
            class_row = watch_class_row(model)
        except ValueError as error:
            raise ValueError(f"recipe.mix_labels={recipe.mix_labels}: {error}") from error
        loss = AttendedLabels(loss, class_row, kind=recipe.mix_labels, smoothing=recipe.smoothing)
    if recipe.distillation == "none":
        return loss
    return DistillationLoss(
        loss,
        kind=recipe.distillation,
        alpha=recipe.distillation_alpha,
        temperature=recipe.distillation_temperature,
        reduction=recipe.distillation_reduction,
    )
