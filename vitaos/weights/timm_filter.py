"""timm's own ``checkpoint_filter_fn`` of a model: layouts of DINOv2, MAE, OpenCLIP, CLIP, ... -> timm's names."""

import sys
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from vitaos.weights.names import StateDict

_KERNEL: Final = "patch_embed.proj.weight"
_TABLE: Final = "relative_position_bias_table"
_ANTICIPATED: Final = (KeyError, AttributeError, RuntimeError, ValueError, TypeError, IndexError, AssertionError)


class _WithoutPositions:
    """A model as timm's filter sees it: without position embeddings, so that it leaves their size to us.

    The filter takes a grid for square or equal wherever the file does not record it (see ``positions.py``). A module
    of that name, as XCiT has it, is none of these embeddings and stays.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        if isinstance(getattr(model, "pos_embed", None), Tensor):
            self.pos_embed = None

    @property  # type: ignore[misc]  # filters ask isinstance(model, ...)
    def __class__(self) -> type:
        return type(self._model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def filter_state(model: nn.Module, state: StateDict) -> StateDict:
    """A state dict after timm's filter; as it was where timm has none, or where the filter cannot read it.

    Sizes are left alone: patch kernels, position embeddings and relative position tables keep the checkpoint's.
    """
    found = _filter_of(model)
    if found is None:
        return state
    tables = {name: value for name, value in state.items() if name.endswith(_TABLE)}
    rest = {name: value for name, value in state.items() if name not in tables}
    kernel = state.get(_KERNEL)
    try:
        filtered = dict(found(rest, _WithoutPositions(model)))
    except _ANTICIPATED:
        return state  # not a layout that timm knows: the checks of loading describe what does not fit
    if kernel is not None and kernel.ndim == 4 and _KERNEL in filtered:
        filtered[_KERNEL] = kernel
    if "mask_token" in state:
        filtered["mask_token"] = state["mask_token"]  # the filter drops it in silence: the report lists it
    return filtered | tables


def _filter_of(model: nn.Module) -> Callable[..., Any] | None:
    for ancestor in type(model).__mro__:
        found = getattr(sys.modules.get(ancestor.__module__), "checkpoint_filter_fn", None)
        if found is not None:
            return found
    return None
