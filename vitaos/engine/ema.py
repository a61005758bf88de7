"""Exponential moving average of the weights, decided on the device."""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class ModelEma(ModelEmaV3):
    """timm's ModelEmaV3 with an update that a flag on the device can cancel.

    timm takes the decay as a Python number, so leaving out one step would mean to wait for the device. Here the
    weight of the step is a tensor, 0 for a skipped one. Averages parameters and floating-point buffers; copies
    other buffers.

    Args:
        model: its present weights are the average's first value.
        decay: share of the old average kept at each step (0.99996 in the release).
        warmup: let the decay rise from 0 as ``1 - updates^(-2/3)`` (timm's `use_warmup`) up to `decay`, for runs far
            shorter than 1 / (1 - decay) steps, in which the plain average would stay at its first value.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.99996, warmup: bool = False) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema decay is {decay}; it must lie in [0, 1)")
        super().__init__(model, decay=decay, use_warmup=warmup)
        self.module.requires_grad_(False)
        object.__setattr__(self, "_of", None)  # whose tensors were found; not a submodule of the average

    def decay_at(self, step: int) -> float:
        """Decay after global step `step` (0-based)."""
        return float(self.get_decay(step + 1)) if self.use_warmup else self.decay

    @torch.no_grad()
    def update_average(self, model: nn.Module, step: int, skip_step: Tensor) -> None:
        """Move the average towards `model` after global step `step`, unless `skip_step` (bool, on the device)."""
        weight = torch.where(skip_step, 0.0, 1.0 - self.decay_at(step)).to(torch.float32)
        averages, values, copies = self._lists(model)
        differences = torch._foreach_sub(values, averages)
        torch._foreach_mul_(differences, weight)
        torch._foreach_add_(averages, differences)
        for average, value in copies:
            average.copy_(value)

    def _lists(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """(averages, the model's values, pairs to copy), found once: asking costs more than averaging a small model.

        The tensors of a model stay the same objects while it trains; loading a state copies into them.
        """
        if self._of is not model:
            pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
            averaged = [pair for pair in pairs if pair[0].is_floating_point()]
            self._found = (
                [average for average, _ in averaged],
                [value for _, value in averaged],
                [pair for pair in pairs if not pair[0].is_floating_point()],
            )
            object.__setattr__(self, "_of", model)
        return self._found
