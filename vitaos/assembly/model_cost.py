"""What the model of a finished run costs: parameters and operations, counted without a value being computed."""

from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitaos.assembly.builders import build_model
from vitaos.assembly.stored_config import restore
from vitaos.config import TrainConfig
from vitaos.study.budget import ModelCost
from vitaos.study.run_files import read_config
from vitaos.study.runs import Run

__all__ = ["ModelCosts", "forward_flops"]

_DEEPEST: Final = 1_000
_WIDEST: Final = 20_000
"""Folders that name more blocks or larger sizes describe no model that was trained, and would take long to build."""

_NO_COST: Final = frozenset({"seed", "name", "out", "recipe", "optimizer", "skip_gain"})
"""What changes neither parameters nor counted operations: runs that differ in these alone have one cost."""


class ModelCosts:
    """Counts the model of every run once for all that have the same one.

    The model is built on the meta device, where tensors have shapes and no values, and looks at one image there.
    """

    def __init__(self) -> None:
        self._known: dict[str, ModelCost | None] = {}

    def __call__(self, run: Run) -> ModelCost | None:
        """The cost, or None where the folder does not describe a model that can be built."""
        described = {key: value for key, value in run.config.items() if key.split(".")[0] not in _NO_COST}
        key = repr(sorted(described.items(), key=lambda item: item[0]))
        if key not in self._known:
            try:
                self._known[key] = _count(run)
            except (ValueError, TypeError, RuntimeError, AttributeError, OSError):  # what timm says to odd keywords
                self._known[key] = None
        return self._known[key]


def _count(run: Run) -> ModelCost | None:
    config = restore(read_config(run.path / "config.yaml"), run.path)
    classes = config.data.num_classes
    sizes = [classes, config.data.img_size, *config.model.keywords.values()]
    if (
        classes is None
        or (run.depth or 0) > _DEEPEST
        or any(isinstance(size, int) and size > _WIDEST for size in sizes)
    ):
        return None
    return _count_model(config, classes)


def forward_flops(config: TrainConfig, classes: int) -> int | None:
    """Operations of a forward pass of one image; None for a model that cannot be built or run without values."""
    try:
        return _count_model(config, classes).flops
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def _count_model(config: TrainConfig, classes: int) -> ModelCost:
    with torch.device("meta"), torch.no_grad():
        model = build_model(config, classes).eval().requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(1, 3, config.data.img_size, config.data.img_size))
    return ModelCost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops())
