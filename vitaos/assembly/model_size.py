"""Whether a stored configuration describes a model of about the size of the weights beside it, before it is built."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

_LARGEST: Final = 1_000_000  # of a whole number among the keywords: widths, heads, sizes
_ALLOWED_GROWTH: Final = 4
_ALLOWED_EXTRA: Final = 10_000_000  # values: position embeddings of other sizes, tables that files leave out


def check_model_size(build: Callable[[], nn.Module], keywords: Mapping[str, Any], weights: Any) -> None:
    """Refuse a configuration whose model would need far more memory than the file's weights.

    Args:
        build: makes the model; called on the meta device, where tensors take no memory.
        keywords: those of the configuration that size the model.
        weights: the state dict stored with the configuration.

    Raises:
        ValueError: names the keyword, or both sizes.
    """
    tensors = [value for value in weights.values() if isinstance(value, Tensor)] if isinstance(weights, Mapping) else []
    for key, value in _whole_numbers(keywords, ""):
        limit = len(tensors) if key.partition("[")[0] in ("depth", "depths") else _LARGEST  # a block has a tensor
        if value > limit:
            raise ValueError(f"{key}={value} does not belong to its {len(tensors)} tensors of weights")
    stored = sum(tensor.numel() for tensor in tensors)
    try:
        with torch.device("meta"):
            model = build()
    except (NotImplementedError, RuntimeError):
        return  # some models of timm need values to be built
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > _ALLOWED_GROWTH * stored + _ALLOWED_EXTRA:
        raise ValueError(f"its config describes a model of {described:,} values, its weights have {stored:,}")


def _whole_numbers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _whole_numbers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _whole_numbers(item, f"{key}[{index}]")
    elif isinstance(value, int | float) and math.isfinite(value):
        yield key, int(value)
