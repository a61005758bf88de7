"""Color jitter (torchvision's) and three-augment (DeiT III, arXiv 2204.07118), drawn for a whole batch on the host."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitaos.counter_rng import uniforms
from vitaos.data.augment import rng_streams
from vitaos.data.augment.op_batch import OpBatch, Operation

_JITTERED: Final = np.array([Operation.BRIGHTNESS, Operation.CONTRAST, Operation.COLOR])
_SOLARIZE_FROM: Final = 128.0
_BLUR_RANGE: Final = (0.1, 2.0)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation in an order drawn for each image, each factor uniform in [1 - s, 1 + s].

    Attributes:
        strengths: s of brightness, contrast and saturation; 0 leaves one out.
    """

    strengths: tuple[float, float, float]

    def draw(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> list[OpBatch]:
        """Three operations an image, functions of (seed, epoch, position)."""
        order = np.argsort(uniforms(seed, epoch, positions, rng_streams.JITTER_ORDER, 3), axis=1)
        strengths = np.asarray(self.strengths)
        low, high = np.maximum(0.0, 1.0 - strengths), 1.0 + strengths
        factors = low + (high - low) * uniforms(seed, epoch, positions, rng_streams.JITTER_FACTOR, 3)
        operations = np.where(strengths > 0, _JITTERED, Operation.IDENTITY)
        return [
            OpBatch(operations[order[:, i]], np.take_along_axis(factors, order[:, i : i + 1], axis=1)[:, 0])
            for i in range(3)
        ]


def parse_color_jitter(value: float | tuple[float, ...] | list[float] | None) -> ColorJitter | None:
    """A strength for all three, or (brightness, contrast, saturation); None and 0 are off.

    Raises:
        ValueError: for a negative strength or another number of strengths (hue is not offered).
    """
    if value is None:
        return None
    strengths = tuple(float(s) for s in value) if isinstance(value, tuple | list) else (float(value),) * 3
    if len(strengths) != 3 or min(strengths) < 0:
        raise ValueError(
            f"color_jitter={value} must be one strength or three (brightness, contrast, saturation), none negative"
        )
    return ColorJitter((strengths[0], strengths[1], strengths[2])) if any(strengths) else None


@dataclass(frozen=True)
class ThreeAugment:
    """One of grayscale, solarize (from 128) and Gaussian blur (radius uniform in 0.1 to 2) for each image."""

    def draw(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> list[OpBatch]:
        """One operation an image, a function of (seed, epoch, position)."""
        choice = (uniforms(seed, epoch, positions, rng_streams.THREE_AUGMENT_CHOICE, 1)[:, 0] * 3).astype(np.int64)
        low, high = _BLUR_RANGE
        radius = low + (high - low) * uniforms(seed, epoch, positions, rng_streams.THREE_AUGMENT_RADIUS, 1)[:, 0]
        operations = np.array([Operation.COLOR, Operation.SOLARIZE, Operation.GAUSSIAN_BLUR], np.int64)[choice]
        return [OpBatch(operations, np.choose(choice, [np.zeros_like(radius), _SOLARIZE_FROM, radius]))]
