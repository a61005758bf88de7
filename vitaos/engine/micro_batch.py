"""A micro-batch of a training step: augmentation, forward and backward pass. Nothing here waits for the device."""

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from vitaos.batch import Batch
from vitaos.counter_rng import derive_seed
from vitaos.engine.wrap import gradient_exchange, seed_torch

if TYPE_CHECKING:
    from vitaos.engine.trainer import Trainer

_STEP_STREAM: Final = 0x57E9  # keeps the draws of steps apart from other uses of the seed


def add_gradient(trainer: "Trainer", batch: Batch, part: int) -> tuple[Tensor, Tensor | None]:
    """Add the gradient of the `part`-th micro-batch to that of the trainer's present step.

    Returns:
        Its shares of the mean over the global batch: of the loss, and of the terms (K,) that the model adds to it,
        if any.
    """
    settings, device, step = trainer.settings, trainer.world.device, trainer.progress.step
    with trainer.phase("augment"):
        images, targets = trainer.transform(batch.on(device), epoch=trainer.progress.epoch, step=step)
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
    seed_torch(derive_seed(settings.seed, _STEP_STREAM, step, part, trainer.world.rank), device)
    last = part == settings.accumulate - 1
    with gradient_exchange(trainer.network, last=last), trainer.pass_of_step(step) as losses:
        with trainer.phase("forward"):
            with trainer.precision.autocast():
                logits = trainer.network(images)
            loss: Tensor = trainer.loss(logits, targets)
            terms = [losses.get(name, torch.zeros_like(loss)) for name in trainer.sums.term_names]
            whole = sum(terms, loss)
        with trainer.phase("backward"):
            whole.backward(trainer.update.loss_gradient(whole, 1.0 / settings.accumulate))
            if part == 0 and not last and trainer.compilation.replays_graphs:
                trainer.update.copy_gradients()
    parts = settings.accumulate * trainer.world.size
    return loss.detach() / parts, torch.stack(terms).detach() / parts if terms else None


def warm_up_ddp(trainer: "Trainer", batch: Batch) -> None:
    """Let DDP fix its buckets on a backward pass that is then forgotten.

    DDP sorts its buckets anew after the first backward pass of a process, and with three or more ranks the order of a
    sum over ranks depends on the buckets. Without this the first step after a resume would round differently from the
    same step in an uninterrupted run.
    """
    add_gradient(trainer, batch, trainer.settings.accumulate - 1)
    trainer.update.zero_grad()
    trainer.statistics.restore()
