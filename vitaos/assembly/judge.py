"""How a checkpoint is judged on images: by its classifier, by its features' nearest neighbors, or by a linear layer."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from vitaos.analysis.measured import LEARNED
from vitaos.analysis.merged import record_in
from vitaos.analysis.robustness.shifts import anchoring
from vitaos.assembly import builders, imagenet
from vitaos.assembly.eval_target import EvalTarget, build_loader, build_model
from vitaos.config import EvalConfig
from vitaos.data import EvalLoader
from vitaos.engine import compilation, evaluator
from vitaos.engine.evaluation_result import EvaluationResult
from vitaos.engine.features import FeatureBank, FeatureBatches, Features, NearestNeighbors, extract, fit_linear, gather
from vitaos.engine.precision import Precision, build_precision
from vitaos.engine.protocols import EvaluationLoader
from vitaos.runtime.world import World

BY_CLASSIFIER: Final = "classifier"


@dataclass(frozen=True)
class Judgment:
    """The outcome on one dataset.

    Attributes:
        result: what is reported.
        by_k: of k-NN, the result for each number of neighbors; else empty.
    """

    result: EvaluationResult
    by_k: dict[int, EvaluationResult]


class Judges:
    """The chosen kinds of weights of a checkpoint, ready to be judged on any images of the classes they answer.

    Both kinds see a batch before the next is read: together they cost one pass over the images, those of the training
    part included.

    Args:
        config: the evaluation's.
        target: the checkpoint and its data, whose training part feeds ``metric=knn|linear``.
        answers: how many classes the model's classifier has.
        world: the processes; making judges is a collective call.

    Raises:
        ValueError: the weights are missing or not this model's, or it has no such features.
    """

    def __init__(self, config: EvalConfig, target: EvalTarget, answers: int, world: World) -> None:
        self._config, self._world = config, world
        self._precision: Precision = build_precision(config.precision, world.device)
        models = {
            weights: _load(config, target, weights, answers, world.device)
            for weights in target.choose_weights(config.weights)
        }
        self._transform: Callable[[Tensor], Tensor] = builders.build_normalize(target.data)
        if config.polyphase_anchoring:
            self._transform = _in_turn(self._transform, anchoring(next(iter(models.values()))))
        self._models = {weights: _ready(config, model, world.device) for weights, model in models.items()}
        self._heads: dict[str, dict[int, nn.Module]] = {}
        if config.metric != BY_CLASSIFIER:
            self._heads = self._build_heads(target)

    def _build_heads(self, target: EvalTarget) -> dict[str, dict[int, nn.Module]]:
        with closing(build_loader(self._config, target, self._world, part="train")) as loader:
            features, classes = self._features(loader), len(loader.class_names)
        return {
            weights: self._heads_on(gather(shares, classes, world=self._world)) for weights, shares in features.items()
        }

    def _heads_on(self, bank: FeatureBank) -> dict[int, nn.Module]:
        config = self._config
        if config.metric == "linear":
            return {0: fit_linear(bank, config.regularization_c, world=self._world)}
        return {k: NearestNeighbors(bank, k, config.temperature) for k in config.k}

    def _features(self, loader: EvalLoader) -> dict[str, FeatureBatches]:
        models = list(self._models.values())
        found = extract(models, loader, self._transform, world=self._world, precision=self._precision)
        return dict(zip(self._models, found, strict=True))

    def judge(
        self, loader: EvalLoader, classes: imagenet.Classes, real_labels: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Judgment]:
        """Count the right answers of each kind of weights on these images, on all ranks together."""

        def count(
            models: Iterable[nn.Module], shares: EvaluationLoader, transform: Callable[[Tensor], Tensor]
        ) -> list[EvaluationResult]:
            return evaluator.evaluate(
                list(models),
                shares,
                transform,
                world=self._world,
                precision=self._precision,
                num_classes=classes.classes,
                class_indices=classes.indices,
                real_labels=real_labels,
                keep_predictions=self._config.predictions,
                keep_confidences=self._config.calibration,
            )

        if not self._heads:
            results = count(self._models.values(), loader, self._transform)
            return {weights: Judgment(result, {}) for weights, result in zip(self._models, results, strict=True)}
        judgments = {}
        for weights, features in self._features(loader).items():
            heads = self._heads[weights]
            by_k = dict(zip(heads, count(heads.values(), features, lambda images: images), strict=True))
            first = next(iter(by_k.values()))
            judgments[weights] = Judgment(first, by_k if self._config.metric == "knn" else {})
        return judgments


def _ready(config: EvalConfig, model: nn.Module, device: torch.device) -> nn.Module:
    """The model, or what gives its features, as it is to be called."""
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    called = model if config.metric == BY_CLASSIFIER else Features(model, config.features, record=record_in(model))
    compilation.choose(config.compile, device).apply(called)
    return called


def _load(config: EvalConfig, target: EvalTarget, weights: str, answers: int, device: torch.device) -> nn.Module:
    """The model with these weights: filled where it was built, so that it is brought to the device once."""
    model = build_model(target, answers)
    target.load_weights(model, weights, classifier="strict" if config.metric == BY_CLASSIFIER else "fit")
    if config.zero_learned:
        zero_learned_values(model)
    return model.to(device)


def _in_turn(first: Callable[[Tensor], Tensor], then: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: then(first(images))


def answer_names(config: EvalConfig, target: EvalTarget, world: World) -> list[str] | None:
    """What the answers mean, in their order: the checkpoint's classes, or those of the training part that features are
    compared with; None where nothing says so."""
    if config.metric == BY_CLASSIFIER:
        return target.class_names
    with closing(build_loader(config, target, world, part="train")) as loader:
        return loader.class_names


@torch.no_grad()
def zero_learned_values(model: nn.Module) -> None:
    """Set every w, s and t to 0: what the other weights do without them.

    Raises:
        ValueError: the model has none.
    """
    found = [parameter for path, parameter in model.named_parameters() if path.rpartition(".")[2] in LEARNED]
    if not found:
        raise ValueError("zero_learned=true: the model has neither AttnScale nor FeatScale, so nothing to set to 0")
    for parameter in found:
        parameter.zero_()
