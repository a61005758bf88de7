"""A small state in the checkpoint format, and what the tests ask of it."""

from pathlib import Path
from typing import Any

import torch

from vitaos.checkpoint.resume import FORMAT


def make_state(step: int, numbers: int = 256) -> dict[str, Any]:
    """A state whose every value follows from ``step``."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(numbers, generator=generator)
    return {
        "format": FORMAT,
        "model": {"weight": weight, "bias": torch.full((4,), float(step))},
        "ema": {"weight": weight * 0.5, "bias": torch.zeros(4)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * 2}},
            "param_groups": [{"lr": 0.1 / (step + 1), "betas": (0.9, 0.999), "params": [0, 1]}],
        },
        "loss_scaler": None,
        "progress": {"step": step, "seed": 0},
        "config": {"model": {"name": "deit_s24"}, "depth": None},
        "versions": {"seed": 0, "world_size": 1},
    }


def same(first: Any, second: Any) -> bool:
    """Equal bit for bit, through nested containers."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict) and first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
        )
    if isinstance(first, (list, tuple)):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
