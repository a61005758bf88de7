"""RandAugment as timm does it, drawn for a whole batch on the host: config strings, choices and magnitudes.

Semantics follow ``timm.data.auto_augment`` (RandAugment: arXiv 1909.13719): n operations an image, each applied with
probability p at a magnitude drawn from N(m, mstd), limited to [0, mmax], and turned into the operation's argument by
its level function. Without history: every draw is a function of (seed, epoch, position).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitaos.counter_rng import normals, uniforms
from vitaos.data.augment import rng_streams
from vitaos.data.augment.op_batch import OpBatch, Operation

Levels = NDArray[np.float64]
LevelFunction = Callable[[Levels, Levels], Levels]

_LEVEL_DENOMINATOR: Final = 10.0
_RECIPE: Final = "rand-m9-mstd0.5-inc1"
_PARTS: Final = (
    "m<integer> (magnitude), n<integer> (operations an image), p<0..1> (probability of each), mstd<number|inf> (spread "
    "of the magnitude, uniform above 100), mmax<integer> (its limit), inc<0|1> (severity grows with magnitude), "
    "tweights|t3a|t3aw (set of operations)"
)
_DEFAULTS: Final = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": _LEVEL_DENOMINATOR, "inc": 0.0}
_LIMITS: Final = {
    "m": (0.0, np.inf),
    "n": (1.0, 100.0),
    "p": (0.0, 1.0),
    "mstd": (0.0, np.inf),
    "mmax": (0.0, np.inf),
    "inc": (0.0, 1.0),
}
_UNIFORM_ABOVE: Final = 100.0


def _none(level: Levels, _sign: Levels) -> Levels:
    return np.zeros_like(level)


def _signed(scale: float) -> LevelFunction:
    return lambda level, sign: level / _LEVEL_DENOMINATOR * scale * sign


def _enhance(level: Levels, _sign: Levels) -> Levels:
    return level / _LEVEL_DENOMINATOR * 1.8 + 0.1


def _enhance_increasing(level: Levels, sign: Levels) -> Levels:
    return np.maximum(0.1, 1.0 + level / _LEVEL_DENOMINATOR * 0.9 * sign)


def _posterize(level: Levels, _sign: Levels) -> Levels:
    return np.trunc(level / _LEVEL_DENOMINATOR * 4)


def _posterize_increasing(level: Levels, sign: Levels) -> Levels:
    return np.maximum(4 - _posterize(level, sign), 0)


def _solarize(level: Levels, _sign: Levels) -> Levels:
    return np.minimum(256, np.trunc(level / _LEVEL_DENOMINATOR * 256))


def _solarize_increasing(level: Levels, sign: Levels) -> Levels:
    return 256 - _solarize(level, sign)


def _solarize_add(level: Levels, _sign: Levels) -> Levels:
    return np.minimum(128, np.trunc(level / _LEVEL_DENOMINATOR * 110))


def _desaturate(level: Levels, _sign: Levels) -> Levels:
    return 1.0 - np.clip(0.5 + 0.5 * level / _LEVEL_DENOMINATOR, 0.5, 1.0)


def _blur(level: Levels, _sign: Levels) -> Levels:
    return np.clip(0.1 + 1.9 * level / _LEVEL_DENOMINATOR, 0.1, 2.0)


LEVELS: Final[dict[str, tuple[Operation, LevelFunction]]] = {
    "AutoContrast": (Operation.AUTO_CONTRAST, _none),
    "Equalize": (Operation.EQUALIZE, _none),
    "Invert": (Operation.INVERT, _none),
    "Rotate": (Operation.ROTATE, _signed(30.0)),
    "Posterize": (Operation.POSTERIZE, _posterize),
    "PosterizeIncreasing": (Operation.POSTERIZE, _posterize_increasing),
    "Solarize": (Operation.SOLARIZE, _solarize),
    "SolarizeIncreasing": (Operation.SOLARIZE, _solarize_increasing),
    "SolarizeAdd": (Operation.SOLARIZE_ADD, _solarize_add),
    "Color": (Operation.COLOR, _enhance),
    "ColorIncreasing": (Operation.COLOR, _enhance_increasing),
    "Contrast": (Operation.CONTRAST, _enhance),
    "ContrastIncreasing": (Operation.CONTRAST, _enhance_increasing),
    "Brightness": (Operation.BRIGHTNESS, _enhance),
    "BrightnessIncreasing": (Operation.BRIGHTNESS, _enhance_increasing),
    "Sharpness": (Operation.SHARPNESS, _enhance),
    "SharpnessIncreasing": (Operation.SHARPNESS, _enhance_increasing),
    "ShearX": (Operation.SHEAR_X, _signed(0.3)),
    "ShearY": (Operation.SHEAR_Y, _signed(0.3)),
    "TranslateXRel": (Operation.TRANSLATE_X, _signed(0.45)),
    "TranslateYRel": (Operation.TRANSLATE_Y, _signed(0.45)),
    "Desaturate": (Operation.COLOR, _desaturate),
    "GaussianBlur": (Operation.GAUSSIAN_BLUR, _blur),
}

_COMMON: Final = ("AutoContrast", "Equalize", "Invert", "Rotate")
_GRADED: Final = ("Color", "Contrast", "Brightness", "Sharpness")
_MOVES: Final = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
PLAIN: Final = (*_COMMON, "Posterize", "Solarize", "SolarizeAdd", *_GRADED, *_MOVES)
INCREASING: Final = (
    *_COMMON,
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    *(f"{name}Increasing" for name in _GRADED),
    *_MOVES,
)
# The sets that timm's `t` key selects: operations with their weights (None: equal, drawn with replacement).
SETS: Final[dict[str, dict[str, float] | tuple[str, ...]]] = {
    "3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur"),
    "3aw": {
        **dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 6.0),
        "Rotate": 3.0,
        **dict.fromkeys(("ShearX", "ShearY"), 2.0),
        **dict.fromkeys(("PosterizeIncreasing", "AutoContrast", "Equalize", "Invert"), 1.0),
        **dict.fromkeys((f"{name}Increasing" for name in _GRADED), 1.0),
    },
    "weights": {
        "Rotate": 3.0,
        **dict.fromkeys(("ShearX", "ShearY"), 2.0),
        **dict.fromkeys(("TranslateXRel", "TranslateYRel"), 1.0),
        **dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "AutoContrast"), 0.25),
        **dict.fromkeys(("SolarizeIncreasing", "SolarizeAdd", "ContrastIncreasing", "BrightnessIncreasing"), 0.05),
        **dict.fromkeys(("Equalize", "PosterizeIncreasing", "Invert"), 0.05),
    },
}


@dataclass(frozen=True)
class RandAugment:
    """A RandAugment policy.

    Attributes:
        magnitude: mean magnitude m, of 10.
        layers: operations an image, n.
        probability: chance that each chosen operation is applied.
        magnitude_std: spread of the magnitude; infinity draws it uniformly from [0, m].
        magnitude_max: its upper limit.
        operations: timm's names of the operations to choose from.
        weights: their relative weights, drawn without replacement; None for equal chances with replacement.
    """

    magnitude: float = 10.0
    layers: int = 2
    probability: float = 0.5
    magnitude_std: float = 0.0
    magnitude_max: float = _LEVEL_DENOMINATOR
    operations: tuple[str, ...] = PLAIN
    weights: tuple[float, ...] | None = None

    def draw(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> list[OpBatch]:
        """The operations of a batch: choices, magnitudes, signs, all functions of (seed, epoch, position)."""
        count = self.layers
        choice = self._choose(seed, epoch, positions)
        applied = uniforms(seed, epoch, positions, rng_streams.APPLY, count) <= self.probability
        level = self._levels(seed, epoch, positions)
        sign = np.where(uniforms(seed, epoch, positions, rng_streams.SIGN, count) > 0.5, -1.0, 1.0)
        operations = np.zeros(choice.shape, np.int64)
        arguments = np.zeros(choice.shape)
        for number, name in enumerate(self.operations):
            here = applied & (choice == number)
            operation, level_function = LEVELS[name]
            operations[here] = operation
            arguments[here] = level_function(level[here], sign[here])
        return [OpBatch(operations[:, i], arguments[:, i]) for i in range(count)]

    def _choose(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, layers) numbers of the chosen operations."""
        size = len(self.operations)
        if self.weights is None:
            draws = uniforms(seed, epoch, positions, rng_streams.OPERATION, self.layers)
            return (draws * size).astype(np.int64)
        # The largest of log weight + Gumbel noise, in order: successive sampling without replacement.
        draws = uniforms(seed, epoch, positions, rng_streams.OPERATION, size)
        keys = np.log(np.asarray(self.weights)) - np.log(-np.log(np.maximum(draws, 1e-300)))
        return np.argsort(-keys, axis=1, kind="stable")[:, : self.layers].astype(np.int64)

    def _levels(self, seed: int, epoch: int, positions: NDArray[np.int64]) -> Levels:
        """(B, layers) magnitudes within [0, magnitude_max]."""
        shape = (len(positions), self.layers)
        if self.magnitude_std == 0:
            level = np.full(shape, self.magnitude)
        elif np.isinf(self.magnitude_std):
            level = self.magnitude * uniforms(seed, epoch, positions, rng_streams.MAGNITUDE, self.layers)
        else:
            level = self.magnitude + self.magnitude_std * normals(
                seed, epoch, positions, rng_streams.MAGNITUDE, self.layers
            )
        return np.clip(level, 0.0, self.magnitude_max)


def parse_randaugment(text: str) -> RandAugment:
    """Read a timm config string such as ``rand-m9-mstd0.5-inc1``.

    Stricter than timm where timm passes over what it cannot read: unknown, repeated or incomplete parts are refused.
    ``mstdinf`` is the uniform draw that timm reaches by an mstd above 100.

    Raises:
        ValueError: naming the part that is wrong and the parts there are.
    """
    head, *parts = text.split("-")
    if head != "rand":
        raise ValueError(f"randaugment={text!r}: it must start with 'rand', not {head!r}; for example {_RECIPE}")
    values: dict[str, str] = {}
    for part in parts:
        key = next((key for key in ("mstd", "mmax", "inc", "m", "n", "p", "t") if part.startswith(key)), None)
        misspelt = key in ("m", "n", "p") and part[1:2].isalpha()
        if key is None or misspelt:
            raise _refusal(text, part, "is unknown")
        if key in values:
            raise _refusal(text, part, f"gives {key} a second time")
        values[key] = part[len(key) :]
    numbers = dict(_DEFAULTS)
    for key, raw in values.items():
        if key != "t":
            numbers[key] = _number(text, key, raw, _LIMITS[key], whole=key not in ("mstd", "p"))
    operations, weights = _operation_set(text, values.get("t"), increasing=numbers["inc"] == 1)
    layers = int(numbers["n"])
    if weights is not None and layers > len(operations):
        raise _refusal(text, f"n{layers}", f"asks for more than the {len(operations)} operations of t{values['t']}")
    return RandAugment(
        magnitude=numbers["m"],
        layers=layers,
        probability=numbers["p"],
        magnitude_std=np.inf if numbers["mstd"] > _UNIFORM_ABOVE else numbers["mstd"],
        magnitude_max=numbers["mmax"] or _LEVEL_DENOMINATOR,  # as in timm, mmax0 means the usual limit
        operations=operations,
        weights=weights,
    )


def _refusal(text: str, part: str, why: str) -> ValueError:
    return ValueError(f"randaugment={text!r}: part {part!r} {why}. Parts are {_PARTS}; for example {_RECIPE}")


def _number(text: str, key: str, raw: str, limits: tuple[float, float], *, whole: bool) -> float:
    try:
        number = float(int(raw)) if whole else float(raw)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise _refusal(text, key + raw, f"needs {kind} after {key!r}") from None
    if not limits[0] <= number <= limits[1]:
        raise _refusal(text, key + raw, f"must lie in {limits[0]:g} to {limits[1]:g}")
    return number


def _operation_set(
    text: str, name: str | None, *, increasing: bool
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    if name is None:
        return (INCREASING if increasing else PLAIN), None
    if name not in SETS:
        raise _refusal(text, f"t{name}", "names no set of operations")
    chosen = SETS[name]
    if isinstance(chosen, tuple):
        return chosen, None
    return tuple(chosen), tuple(chosen.values())
