"""How a checkpoint is judged on images: by its classifier, by its features' nearest neighbors, or by a linear layer."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from vitaos.analysis.measured import LEARNED
from vitaos.analysis.robustness.shifts import anchoring
from vitaos.assembly import builders, imagenet
from vitaos.assembly.eval_target import EvalTarget, build_loader, build_model
from vitaos.config import EvalConfig
from vitaos.data import EvalLoader
from vitaos.engine import compilation, evaluator
from vitaos.engine.evaluator import EvaluationResult
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


class Judge:
    """One kind of weights of a checkpoint, ready to be judged on any images of the classes it answers.

    Args:
        config: the evaluation's.
        target: the checkpoint and its data, whose training part feeds ``metric=knn|linear``.
        weights: ``raw`` or ``ema``.
        answers: how many classes the model's classifier has.
        world: the processes; making a judge is a collective call.

    Raises:
        ValueError: the weights are not this model's, or it has no such features.
    """

    def __init__(self, config: EvalConfig, target: EvalTarget, weights: str, answers: int, world: World) -> None:
        self._config, self._world = config, world
        self._normalize: Callable[[Tensor], Tensor] = builders.build_normalize(target.data)
        self._precision: Precision = build_precision(config.precision, world.device)
        by_classifier = config.metric == BY_CLASSIFIER
        model = _load(config, target, weights, answers, world.device)
        if config.polyphase_anchoring:
            self._normalize = _in_turn(self._normalize, anchoring(model))
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        self._model: nn.Module = model if by_classifier else Features(model, config.features)
        compilation.choose(config.compile, world.device).apply(self._model)
        self._heads: dict[int, nn.Module] = {}
        if not by_classifier:
            self._heads = self._build_heads(self._bank(target))

    def _bank(self, target: EvalTarget) -> FeatureBank:
        with closing(build_loader(self._config, target, self._world, part="train")) as loader:
            return gather(self._features(loader), len(loader.class_names), world=self._world)

    def _features(self, loader: EvalLoader) -> FeatureBatches:
        return extract(self._model, loader, self._normalize, world=self._world, precision=self._precision)

    def _build_heads(self, bank: FeatureBank) -> dict[int, nn.Module]:
        config = self._config
        if config.metric == "linear":
            return {0: fit_linear(bank, config.regularization_c, world=self._world)}
        return {k: NearestNeighbors(bank, k, config.temperature) for k in config.k}

    def judge(
        self, loader: EvalLoader, classes: imagenet.Classes, real_labels: Sequence[Sequence[int]] | None = None
    ) -> Judgment:
        """Count the right answers on these images, on all ranks together."""

        def count(
            model: nn.Module, shares: EvaluationLoader, transform: Callable[[Tensor], Tensor]
        ) -> EvaluationResult:
            return evaluator.evaluate(
                model,
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
            return Judgment(count(self._model, loader, self._normalize), {})
        features = self._features(loader)
        results = {k: count(head, features, lambda images: images) for k, head in self._heads.items()}
        first = next(iter(results.values()))
        return Judgment(first, results if self._config.metric == "knn" else {})


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
