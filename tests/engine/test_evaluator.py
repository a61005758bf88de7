"""Evaluation against a count by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from miniature import ALONE, CLASSES, EvaluationImages, images_of, normalize, tiny_vit
from torch import Tensor, nn

from vitaos.batch import Batch
from vitaos.engine.evaluation_result import EvaluationResult
from vitaos.engine.evaluator import evaluate
from vitaos.engine.precision import build_precision
from vitaos.engine.tally import EvaluationInterrupted


class Answers(nn.Module):
    """Answers with the logits written into the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Listed:
    """An evaluation set of given logits and labels."""

    def __init__(self, logits: Tensor, labels: list[int], batch_size: int = 2) -> None:
        self.logits, self.labels, self.batch_size = logits, torch.tensor(labels, dtype=torch.int64), batch_size
        self.num_images = len(labels)

    def __iter__(self) -> Iterator[Batch]:
        for positions in torch.arange(len(self.labels)).split(self.batch_size):
            yield Batch(self.logits[positions], self.labels[positions], positions)


def evaluate_images(model: nn.Module, loader: Any, classes: int = CLASSES, **keywords: Any) -> EvaluationResult:
    transform = keywords.pop("transform", lambda images: images)
    number_format = build_precision("fp32", ALONE.device)
    (result,) = evaluate(
        [model], loader, transform, world=ALONE, precision=number_format, num_classes=classes, **keywords
    )
    return result


def test_counts_and_loss_equal_a_count_by_hand() -> None:
    model = tiny_vit(proj_drop_rate=0.5).train()
    result = evaluate_images(model, EvaluationImages(ALONE), transform=normalize)
    assert model.training
    images, labels = images_of(torch.arange(53) + 1000)
    with torch.no_grad():
        logits = model.eval()(normalize(images))
    right = logits.topk(5).indices == labels[:, None]
    assert (result.count, result.correct1, result.correct5) == (53, int(right[:, 0].sum()), int(right.any(1).sum()))
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert result.top1 == pytest.approx(100 * result.correct1 / 53)
    assert result.class_count.tolist() == torch.bincount(labels, minlength=CLASSES).tolist()
    assert result.class_correct1.tolist() == torch.bincount(labels[right[:, 0]], minlength=CLASSES).tolist()
    assert set(result.metrics()) == {"top1", "top5", "loss"}


def test_a_compiled_model_is_compiled_once_for_full_and_partial_batches() -> None:
    plain, model = tiny_vit(), tiny_vit()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=keep)
    for _ in range(2):
        result = evaluate_images(model, EvaluationImages(ALONE), transform=normalize)
    assert len(graphs) == 1
    expected = evaluate_images(plain, EvaluationImages(ALONE), transform=normalize)
    assert (result.count, result.class_correct1.tolist()) == (53, expected.class_correct1.tolist())
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)


class Counted(Listed):
    """Counts how often it was read."""

    passes = 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return super().__iter__()


def test_several_models_share_one_pass_and_are_judged_as_each_alone() -> None:
    class Turned(Answers):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).roll(1, 1)

    loader = Counted(torch.eye(4)[[0, 2, 1, 3, 3]], [0, 2, 3, 3, 0])
    models = [Answers().train(), Turned().eval()]
    keep: dict[str, Any] = {"keep_predictions": True, "keep_confidences": True}
    words: dict[str, Any] = {"world": ALONE, "precision": build_precision("fp32", ALONE.device), "num_classes": 4}
    together = evaluate(models, loader, lambda images: images, **words, **keep)
    assert loader.passes == 1
    assert [model.training for model in models] == [True, False]
    assert [result.correct1 for result in together] == [3, 1]
    for model, result in zip(models, together, strict=True):
        alone = evaluate_images(model, loader, classes=4, **keep)
        assert (result.count, result.loss, result.top5) == (alone.count, alone.loss, alone.top5)
        assert result.predictions is not None
        assert alone.predictions is not None
        assert result.predictions.predicted.tolist() == alone.predictions.predicted.tolist()
        assert result.confidences is not None
        assert alone.confidences is not None
        assert result.confidences.nll.tolist() == alone.confidences.nll.tolist()


def test_predictions_of_every_image_in_the_datasets_order() -> None:
    logits = torch.eye(4)[[0, 2, 1, 3, 3]]
    logits[3] = float("nan")
    loader = Listed(logits, [0, 2, 3, 3, 3])
    assert evaluate_images(Answers(), loader, classes=4).predictions is None
    found = evaluate_images(Answers(), loader, classes=4, keep_predictions=True).predictions
    assert found is not None
    assert found.target.tolist() == [0, 2, 3, 3, 3]
    assert found.predicted.tolist() == [0, 2, 1, -1, 3]
    assert found.correct.tolist() == [True, True, False, False, True]


def test_fewer_than_five_classes() -> None:
    result = evaluate_images(Answers(), Listed(torch.eye(3), [0, 1, 1]), classes=3)
    assert (result.correct1, result.correct5) == (2, 3)


def test_a_subset_of_the_answers() -> None:
    # Of six answers the dataset's two classes are the answers 4 and 1.
    logits = torch.tensor([[9.0, 0, 0, 0, 1, 0], [9.0, 2, 0, 0, 1, 0]])
    result = evaluate_images(Answers(), Listed(logits, [0, 1]), classes=2, class_indices=[4, 1])
    assert (result.correct1, result.count) == (2, 2)


def test_real_labels_accept_any_of_several_and_leave_out_images_without() -> None:
    logits = torch.eye(6)[[0, 1, 2, 3]]
    result = evaluate_images(Answers(), Listed(logits, [5, 1, 2, 3]), classes=6, real_labels=[[0, 5], [1], [], [4]])
    assert (result.count, result.correct1) == (3, 2)
    assert result.class_count.tolist() == [0, 1, 0, 1, 0, 1]


def test_answers_that_are_no_numbers_are_not_right() -> None:
    result = evaluate_images(Answers(), Listed(torch.full((3, 3), torch.nan), [0, 1, 2]), classes=3)
    assert (result.correct1, result.correct5) == (0, 0)


def test_wrong_numbers_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"answers 6 classes, the data have 10.*num_classes=10"):
        evaluate_images(Answers(), Listed(torch.eye(6), [0] * 6), classes=10)
    with pytest.raises(ValueError, match=r"label 5, but .* 3 classes"):
        evaluate_images(Answers(), Listed(torch.eye(3), [0, 1, 5]), classes=3)
    with pytest.raises(ValueError, match="no image"):
        evaluate_images(Answers(), Listed(torch.zeros(0, 3), []), classes=3)


def test_a_request_to_leave_interrupts() -> None:
    with pytest.raises(EvaluationInterrupted):
        evaluate_images(Answers(), Listed(torch.eye(3), [0, 1, 2]), classes=3, interrupted=lambda: True)


def test_an_image_that_was_not_evaluated_is_missed() -> None:
    loader = Listed(torch.eye(4)[[0, 2, 1, 3, 3]], [0, 2, 3, 3, 3])
    loader.num_images = 6
    with pytest.raises(ValueError, match="5 images were evaluated, the dataset has 6"):
        evaluate_images(Answers(), loader, classes=4)
