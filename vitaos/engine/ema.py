"""Exponential moving average of the weights, decided on the device."""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

_Pairs = list[tuple[Tensor, Tensor]]


class ModelEma(ModelEmaV3):
    """timm's ModelEmaV3 with an update that a flag on the device can cancel.

    timm decides on the host whether to average, so leaving out one step would mean to wait for the device. Averages
    parameters and floating-point buffers; copies other buffers.

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
        weight, skip = 1.0 - self.decay_at(step), skip_step.to(torch.float32)
        together, apart, copies = self._tensors(model)
        for averages, values in together:
            _move(averages, values, weight, skip)
        for average, value in apart:
            moved = average + weight * (value - average)
            average.copy_(torch.where(skip_step, average, moved))
        for average, value in copies:
            average.copy_(value)

    def _tensors(self, model: nn.Module) -> tuple[list[tuple[list[Tensor], list[Tensor]]], _Pairs, _Pairs]:
        """What is averaged together (by type), what one by one, and what is copied; (average, the model's) each.

        Found once: asking costs more than averaging a small model. The tensors of a model stay the same objects while
        it trains; loading a state copies into them. What two names share is averaged once.
        """
        if self._of is not model:
            states = (module.state_dict(keep_vars=True).values() for module in (self.module, model))
            pairs = {id(average): (average, value) for average, value in zip(*states, strict=True)}
            together: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
            apart: _Pairs = []
            copies: _Pairs = []
            for average, value in pairs.values():
                if not average.is_floating_point():
                    copies.append((average, value))
                elif (average.dtype, average.stride()) != (value.dtype, value.stride()):
                    apart.append((average, value))
                else:
                    averages, values = together.setdefault(average.dtype, ([], []))
                    averages.append(average)
                    values.append(value)
            self._found = list(together.values()), apart, copies
            object.__setattr__(self, "_of", model)
        return self._found


def _move(averages: list[Tensor], values: list[Tensor], weight: float, skip: Tensor) -> None:
    """averages += weight x (values - averages) unless `skip` is 1, in one pass: two reads and a write of each.

    It is a step of gradient descent on |averages - values|^2 / 2, for which torch has a fused kernel with such a flag:
    the values are maximized gradients, and the average is its own decay. (torch's lerp takes no weight from the
    device.) Types and strides of a pair must agree: the kernel on the CPU does not look.
    """
    torch._fused_sgd_(
        averages,
        values,
        [],
        weight_decay=1.0,
        momentum=0.0,
        lr=weight,
        dampening=0.0,
        nesterov=False,
        maximize=True,
        is_first_step=False,
        found_inf=skip,
    )
