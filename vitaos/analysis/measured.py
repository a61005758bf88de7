"""What an analysis of a model found: records that figures and tables are made of."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vitaos.analysis.capture import AttentionLayer, Grid
from vitaos.analysis.propagation import Propagation

Array = NDArray[np.float64]
LEARNED = {"attn_scale": "w", "feat_scale_dc": "s", "feat_scale_hf": "t"}  # parameter -> the paper's letter


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation over the images."""

    mean: float
    std: float


@dataclass(frozen=True)
class FeatureMeasures:
    """What was measured on the patch tokens behind one block.

    Attributes:
        name: the block, or ``input`` for what enters the first one.
        number: 0 for the input, then 1, 2, ...
        stage: 0-based stage of a hierarchical model.
        grid: rows and columns of tokens.
        values: ``hf_dc_ratio``, ``token_similarity``, ``effective_rank``,
            ``token_norm``, ``largest_token_norm`` -> moments.
        amplitude: (rows, columns) mean amplitude of the feature map's spectrum, zero frequency in the middle.
    """

    name: str
    number: int
    stage: int
    grid: Grid
    values: dict[str, Moments]
    amplitude: Array


@dataclass(frozen=True)
class AttentionMeasures:
    """What was measured on the maps of one attention module.

    Attributes:
        layer: which module it is.
        tokens: tokens that a query attends to.
        response: (H, N) spectral response of the softmax map; for class attention the spectrum of its one row.
        applied: (H, N) response of the map that AttnScale applies; None where there is no AttnScale.
    """

    layer: AttentionLayer
    tokens: int
    response: Array
    applied: Array | None


@dataclass(frozen=True)
class Provenance:
    """Which weights were measured, and on which images.

    Attributes:
        weights: ``ema``, ``raw`` or ``untrained``; None where unknown.
        step: training step of the weights; None where unknown.
        dataset: name of the images' dataset; None where unknown.
    """

    weights: str | None = None
    step: int | None = None
    dataset: str | None = None

    def describe(self, images: int) -> str:
        """One line: ``EMA weights at step 440, 256 images of digits``; what is unknown is left out."""
        parts = []
        if self.weights is not None:
            weights = {"ema": "EMA weights", "raw": "raw weights"}.get(self.weights, "untrained")
            parts.append(weights if self.step is None else f"{weights} at step {self.step:,}")
        parts.append(f"{images} images" + (f" of {self.dataset}" if self.dataset else ""))
        return ", ".join(parts)


@dataclass(frozen=True)
class Analysis:
    """Everything measured on one model.

    Attributes:
        label: name in legends and tables.
        images: how many images were seen.
        features: input and every block, in order.
        attention: every attention module, in order.
        map_similarity: (L, L) over ``attention``; NaN between maps of different sizes, stages or window positions.
        learned: parameter (``attn_scale``, ...) -> module -> values; empty without techniques.
        provenance: which weights, and which images.
        propagation: dominant eigenvalues and length distortion, where they were asked for.
    """

    label: str
    images: int
    features: list[FeatureMeasures]
    attention: list[AttentionMeasures]
    map_similarity: Array
    learned: dict[str, dict[str, Array]]
    provenance: Provenance = field(default_factory=Provenance)
    propagation: Propagation | None = None
