"""Exact evaluation: every image counts once, whatever the number of processes.

Shapes: B images of a batch, C classes that the model answers, K classes that are asked for.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vitaos.engine.evaluation_result import EvaluationResult
from vitaos.engine.precision import Precision
from vitaos.engine.protocols import EvaluationLoader
from vitaos.engine.tally import Tally
from vitaos.runtime.world import World

Images = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(
    models: Sequence[nn.Module],
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
) -> list[EvaluationResult]:
    """Evaluate models on all ranks together; each sees its share of the images, and one all-reduce a model adds the
    counts.

    All models see a batch before the next is read: the weights and their average cost one pass over the images.

    Args:
        models: not wrapped in DDP; left in the mode they came in.
        loader: this rank's share, possibly empty.
        transform: uint8 images (B, 3, H, W) on the device to normalized float images.
        num_classes: K, classes of the dataset: targets lie in [0, K).
        class_indices: which K of the models' C answers belong to the dataset's classes, in their order (ImageNet-A
            and -R have 200 of the 1000 classes).
        real_labels: for each image of the dataset the labels that count as right ("ImageNet ReaL"); images without
            any are left out, the classes of the result and the loss stay those of the dataset's own labels.
        interrupted: asked before each batch; once true on any rank, all ranks raise `EvaluationInterrupted` at the end.
        keep_predictions: return what was predicted for every image as well.
        keep_confidences: return how sure the model was of every image as well.

    Returns:
        A result for each model, in their order.

    Raises:
        EvaluationInterrupted: see `interrupted`.
        ValueError: the labels do not fit the number of classes or answers, no image was left to evaluate, or not every
            image of the dataset was evaluated once.
    """
    tallies = [
        Tally(
            num_classes,
            loader.num_images,
            world,
            keep_predictions=keep_predictions,
            keep_confidences=keep_confidences,
        )
        for _ in models
    ]
    indices = None if class_indices is None else torch.tensor(class_indices, dtype=torch.int64, device=world.device)
    were_training, full = [model.training for model in models], 0
    for model in models:
        model.eval()
    try:
        for batch in loader:
            if interrupted is not None and interrupted():
                tallies[0].interrupt()
                break
            _check_targets(batch.targets, num_classes)
            accepted_BK = None if real_labels is None else _accepted(real_labels, batch.positions, num_classes)
            images = transform(batch.images.to(world.device, non_blocking=True))
            targets_B = batch.targets.to(world.device, non_blocking=True)
            full = max(full, len(images))
            if accepted_BK is not None:
                accepted_BK = _without_waiting(accepted_BK, world.device)
            positions_B = _without_waiting(batch.positions, world.device) if tallies[0].by_image else None
            for model, tally in zip(models, tallies, strict=True):
                with precision.autocast():
                    logits_BC = _answers(model, images, full)
                logits_BK = (logits_BC if indices is None else logits_BC[:, indices]).float()
                _check_answers(logits_BK.shape[1], num_classes)
                tally.add(logits_BK, targets_B, accepted_BK, positions_B)
    finally:
        for model, was_training in zip(models, were_training, strict=True):
            model.train(was_training)
    return [tally.result(every_image=real_labels is None) for tally in tallies]


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
