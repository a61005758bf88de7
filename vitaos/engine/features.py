"""Features of a frozen model, judged without its classifier: nearest neighbors and a linear layer.

Shapes: N images of the training part, B of a batch, D values of a feature, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.batch import Batch
from vitaos.engine.precision import Precision
from vitaos.engine.protocols import EvaluationLoader
from vitaos.runtime.world import World

KINDS: Final = ("pooled", "class_token", "mean")
_ELEMENTS_AT_ONCE: Final = 2**27  # of the largest intermediate matrix: half a GB in float32
_ITERATIONS: Final = 1000


class Features(nn.Module):
    """The features of a timm model.

    Args:
        model: its classifier is not used.
        kind: ``pooled`` (what the classifier would see), ``class_token`` or ``mean`` (of the patch tokens); the last
            two after the final norm.
        record: the model's record of a pass, where its tokens become fewer: a mean weighs each by the patches that it
            stands for (``sizes_BN``).
    """

    def __init__(self, model: nn.Module, kind: str, *, record: Any = None) -> None:
        super().__init__()
        self._record = record if kind == "mean" else None
        if self._record is not None:
            self._record.keeps_sizes = True
        self.model, self.kind = model, kind
        self._prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
        if kind == "class_token" and (self._prefix < 1 or getattr(model, "cls_token", None) is None):
            raise ValueError(f"features=class_token: {type(model).__name__} has no class token; use pooled or mean")

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) float32."""
        model: Any = self.model
        tokens = model.forward_features(images)
        if self.kind == "pooled":
            found: Tensor = model.forward_head(tokens, pre_logits=True)
        elif self.kind == "class_token":
            found = tokens[:, 0]
        else:
            found = self._mean(tokens)
        return found.flatten(1).float()

    def _mean(self, tokens: Tensor) -> Tensor:
        if tokens.ndim == 4:  # Swin's are (B, H, W, D), a convolutional network's (B, D, H, W)
            return tokens.mean((1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else (2, 3))
        sizes_BN = None if self._record is None else self._record.sizes_BN
        if sizes_BN is None:
            return tokens[:, self._prefix :].mean(1)
        sizes_BN1 = sizes_BN[:, self._prefix :, None].to(tokens.dtype)
        return (tokens[:, self._prefix :] * sizes_BN1).sum(1) / sizes_BN1.sum(1)


@dataclass(frozen=True)
class FeatureBank:
    """The features of all images of a dataset, on every rank.

    Attributes:
        features: (N, D) float32 on the device.
        targets: (N,) int64 on the device.
        classes: K.
    """

    features: Tensor
    targets: Tensor
    classes: int


class FeatureBatches:
    """This rank's share of a dataset with features in the place of images: what the evaluator reads."""

    def __init__(self, batches: list[Batch], num_images: int) -> None:
        self._batches, self.num_images = batches, num_images

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


@torch.no_grad()
def extract(
    models: Sequence[nn.Module],
    loader: EvaluationLoader,
    transform: Callable[[Tensor], Tensor],
    *,
    world: World,
    precision: Precision,
) -> list[FeatureBatches]:
    """The features of this rank's share of a dataset, in the order of the loader, for each model; the images are read
    once.

    Args:
        models: map images to (B, D); put into eval mode.
        loader: this rank's share.
        transform: uint8 images on the device to normalized float images.
    """
    for model in models:
        model.eval()
    batches: list[list[Batch]] = [[] for _ in models]
    for batch in loader:
        images = transform(batch.images.to(world.device, non_blocking=True))
        for model, found in zip(models, batches, strict=True):
            with precision.autocast():
                features = model(images)
            found.append(batch._replace(images=features.float()))
    return [FeatureBatches(found, loader.num_images) for found in batches]


def gather(shares: FeatureBatches, classes: int, *, world: World) -> FeatureBank:
    """The features of all ranks on every rank, in the order of the dataset; a collective call.

    Raises:
        ValueError: not every image was seen exactly once, or a feature is not finite.
    """
    width = max(world.gather_objects(max((batch.images.shape[1] for batch in shares), default=0)))
    features = torch.zeros(shares.num_images, width, device=world.device)
    facts = torch.zeros(2, shares.num_images, dtype=torch.int64, device=world.device)
    for batch in shares:
        places = batch.positions.to(world.device)
        features[places] = batch.images
        facts[:, places] = torch.stack([batch.targets.to(world.device), torch.ones_like(places)])
    world.all_reduce(features)
    world.all_reduce(facts)
    if not bool((facts[1] == 1).all()):
        raise ValueError("the training part was not read image by image: the ranks see different data")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("a feature of the training part is not finite: the weights hold no usable model")
    return FeatureBank(features, facts[0], classes)


class NearestNeighbors(nn.Module):
    """The weighted vote of an image's nearest neighbors, as DINO has it (Caron et al. 2021, after Wu et al. 2018).

    Args:
        bank: the training part.
        k: neighbors that vote; all where there are fewer.
        temperature: a neighbor of cosine similarity c votes with weight exp(c / temperature).
    """

    def __init__(self, bank: FeatureBank, k: int, temperature: float) -> None:
        super().__init__()
        self._bank_DN = F.normalize(bank.features, dim=1).T
        self._targets_N, self._classes = bank.targets, bank.classes
        self._k, self._temperature = min(k, len(bank.targets)), temperature

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, K): the logarithm of each class's share of the vote, a very small number for none."""
        rows = max(1, _ELEMENTS_AT_ONCE // len(self._targets_N))
        return torch.cat([self._vote(part) for part in features_BD.split(rows)])

    def _vote(self, features_BD: Tensor) -> Tensor:
        nearest = (F.normalize(features_BD, dim=1) @ self._bank_DN).topk(self._k, dim=1)
        # The nearest's weight is 1 instead of exp(c / T): shares are the same, and no temperature overflows.
        weights = ((nearest.values - nearest.values[:, :1]) / self._temperature).exp()
        votes = torch.zeros(len(features_BD), self._classes, device=features_BD.device)
        votes.scatter_add_(1, self._targets_N[nearest.indices], weights)
        return (votes / votes.sum(1, keepdim=True)).clamp_min(torch.finfo(votes.dtype).tiny).log()


def fit_linear(bank: FeatureBank, inverse_regularization: float, *, world: World) -> nn.Linear:
    """Multinomial logistic regression on standardized features, as scikit-learn's ``StandardScaler`` and
    ``LogisticRegression(C=...)`` fit it: the minimum of the summed cross-entropy + ||W||^2 / (2 C), by torch's L-BFGS
    on the device. The ranks share the images and see the same sums.

    Args:
        bank: the training part.
        inverse_regularization: C; larger fits the training part more closely.
        world: the processes.

    Returns:
        A layer on the features as they are: the standardization is folded into it.
    """
    mean_D, std_D = bank.features.mean(0), bank.features.std(0, unbiased=False)
    std_D = torch.where(std_D > 0, std_D, 1.0)
    images, width = bank.features.shape
    share = slice(world.rank, images, world.size)
    parts = list(
        zip(
            bank.features[share].split(max(1, _ELEMENTS_AT_ONCE // bank.classes)),
            bank.targets[share].split(max(1, _ELEMENTS_AT_ONCE // bank.classes)),
            strict=True,
        )
    )
    weights = torch.zeros(bank.classes, width + 1, device=world.device, requires_grad=True)  # the last column: biases
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=_ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=world.device)
        for features, targets in parts:
            logits = F.linear((features - mean_D) / std_D, weights[:, :-1], weights[:, -1])
            loss = F.cross_entropy(logits, targets, reduction="sum") / images
            loss.backward()
            total += loss.detach()
        gradient = torch.zeros_like(weights) if weights.grad is None else weights.grad
        sums = world.all_reduce(torch.cat([gradient.flatten(), total[None]]))
        decay = 1.0 / (inverse_regularization * images)
        with torch.no_grad():
            penalty = 0.5 * decay * weights[:, :-1].square().sum()
            weights.grad = sums[:-1].view_as(weights).clone()
            weights.grad[:, :-1] += decay * weights[:, :-1]
        return sums[-1] + penalty

    optimizer.step(objective)
    layer = nn.Linear(width, bank.classes, device=world.device)
    with torch.no_grad():
        layer.weight.copy_(weights[:, :-1] / std_D)
        layer.bias.copy_(weights[:, -1] - layer.weight @ mean_D)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
        if world.rank:
            parameter.zero_()
        world.all_reduce(parameter.data)  # bit for bit the main rank's
    return layer
