"""Random numbers without history: every draw is a function of what it is for, never of what was drawn before.

A draw for one image is addressed by (seed, epoch, position, stream, number), a draw for one step by (seed, step, ...).
So an interrupted run, another number of workers or another number of processes sees the same numbers. The generator is
SplitMix64's finalizer (Steele, Lea, Flood 2014) applied to a chain of words, vectorized over the images of a batch.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_MASK: Final = (1 << 64) - 1


def _finalize(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def _finalize_one(word: int) -> int:
    word = ((word ^ (word >> 30)) * int(_MIX_1)) & _MASK
    word = ((word ^ (word >> 27)) * int(_MIX_2)) & _MASK
    return word ^ (word >> 31)


def mix(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash a sequence of integers (scalars or arrays that broadcast) to 64 well-mixed bits each.

    The order of the words matters: ``mix(1, 2) != mix(2, 1)``.
    """
    # Numbers that all share are mixed as Python's: a tenth of the time of NumPy's scalars.
    leading = 0
    state = 0
    for word in words:
        if not isinstance(word, (int, np.integer)):
            break
        state = _finalize_one(((state ^ (int(word) & _MASK)) + int(_GOLDEN)) & _MASK)
        leading += 1
    states = np.asarray(state, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words[leading:]:
            if isinstance(word, (int, np.integer)):
                array = np.asarray(int(word) & _MASK, dtype=np.uint64)
            else:
                array = np.asarray(word).astype(np.int64).view(np.uint64)
            states = _finalize((states ^ array) + _GOLDEN)
    return np.asarray(states)


def derive_seed(*words: int) -> int:
    """One 63-bit seed for a library generator (``torch.manual_seed`` and the like) from a sequence of integers."""
    return int(mix(*words)) & ((1 << 63) - 1)


def generator(*words: int) -> np.random.Generator:
    """A NumPy generator for the draws of one step or one epoch, addressed by a sequence of integers."""
    return np.random.Generator(np.random.PCG64(derive_seed(*words)))


def uniforms(seed: int, epoch: int, positions: NDArray[np.integer], stream: int, count: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1) for the images of a batch.

    Args:
        seed: the run's seed.
        epoch: 0-based epoch.
        positions: (B,) places of the images in the global order of the epoch.
        stream: number of the purpose (crop, flip, ...), so that purposes do not share draws.
        count: how many numbers each image needs.

    Returns:
        (B, count) float64.
    """
    words = mix(seed, epoch, np.asarray(positions)[:, None], stream, np.arange(count, dtype=np.int64)[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def normals(seed: int, epoch: int, positions: NDArray[np.integer], stream: int, count: int) -> NDArray[np.float64]:
    """Standard normal draws (Box-Muller) for the images of a batch; arguments and shape as :func:`uniforms`."""
    pairs = uniforms(seed, epoch, positions, stream, 2 * count)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, :count]))
    return np.asarray(radius * np.cos(2.0 * np.pi * pairs[:, count:]))
