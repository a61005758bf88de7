"""One optimizer step: norm, decision, scale, clip, step, average, all decided on the device.

After DDP's all-reduce a non-finite value of one rank's gradient is in the gradients of all ranks, so every rank draws
the same conclusion from the norm it computes for itself, and nobody asks anybody.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vitaos.engine.ema import ModelEma
from vitaos.engine.precision import LossScale
from vitaos.engine.statistics import RunningStatistics

NONFINITE: Final = ("stop", "skip")


class NonFiniteError(RuntimeError):
    """The loss or a gradient became NaN or infinite, so the run stopped.

    Attributes:
        step: the global step before which the state was saved.
    """

    def __init__(self, step: int, message: str | None = None) -> None:
        super().__init__(
            message
            or f"the loss or a gradient of global step {step} is NaN or infinite. "
            "Try precision=bf16 or fp32, a lower lr, a gradient clip (recipe.clip=1.0), or nonfinite=skip to leave "
            "such batches out"
        )
        self.step = step


@dataclass(frozen=True)
class StepDecision:
    """What follows from a step's gradient norm: scalars on the device, two of them bool."""

    skip_step: Tensor
    nonfinite: Tensor
    norm: Tensor


class Guard:
    """Decides whether a step counts.

    With ``stop`` the first non-finite step freezes the run: it and all later steps are skipped, so the state stays
    as it was before it until the host has read `first_bad_step` and stops. With ``skip`` only the step itself is
    skipped.

    Attributes:
        first_bad_step: int64 scalar on the device, -1 while there is none.
    """

    def __init__(self, mode: str, device: torch.device) -> None:
        if mode not in NONFINITE:
            raise ValueError(f"nonfinite={mode!r} is unknown; choose one of {', '.join(NONFINITE)}")
        self.mode = mode
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def decide(self, norm: Tensor, step: int, loss_scale: LossScale | None) -> StepDecision:
        """Decide on the gradient of global step `step`, whose true norm is `norm`; adapts the loss scale.

        An overflow of fp16 is skipped and lowers the scale but counts as non-finite only when the scale is down to
        1.
        """
        overflow = ~torch.isfinite(norm)
        nonfinite = overflow
        if loss_scale is not None:
            nonfinite = overflow & (loss_scale.scale <= 1.0)
        skip_step = overflow
        frozen = torch.zeros_like(overflow)
        if self.mode == "stop":
            first_now = nonfinite & (self.first_bad_step < 0)
            self.first_bad_step.masked_fill_(first_now, step)
            frozen = self.first_bad_step >= 0
            skip_step = overflow | frozen
        if loss_scale is not None:
            loss_scale.update(overflow, frozen)
        return StepDecision(skip_step, nonfinite, norm)


class Update:
    """The optimizer with what surrounds its step.

    torch's fused Adam and AdamW take a divisor of the gradients and a flag that skips the step (made for
    GradScaler) as tensors, so scaling, clipping and skipping cost no pass of their own and no synchronization.
    Other optimizers (timm's, apex's) have no such flag: for them the flag is read on the host, one wait for the
    device in each step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None,
        guard: Guard,
        loss_scale: LossScale | None,
        ema: ModelEma | None,
        statistics: RunningStatistics | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.clip = clip
        self.guard = guard
        self.loss_scale = loss_scale
        self.ema = ema
        self.statistics = statistics
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.decides_on_device = can_skip_on_device(optimizer)

    def loss_gradient(self, loss: Tensor, share: float) -> Tensor:
        """Gradient to start the backward pass of `loss` from: its share of the step times the loss scale.

        The term 0 x loss makes it NaN where the loss is not finite although its gradient might be, so that the one
        decision on the gradient covers the loss of every rank too.
        """
        seed = loss.detach() * 0.0 + share
        return seed if self.loss_scale is None else seed * self.loss_scale.scale

    def zero_grad(self) -> None:
        for parameter in self._parameters:  # not the optimizer's own, whose arguments differ between libraries
            parameter.grad = None

    def copy_gradients(self) -> None:
        """Take the gradients out of memory that belongs to a CUDA graph, which overwrites it in its next pass."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()

    @torch.no_grad()
    def apply(self, model: nn.Module, step: int, lr: float) -> StepDecision:
        """Take the step from the gradients that lie in the parameters, unless they are not finite."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        scale = None if self.loss_scale is None else self.loss_scale.scale.clone()
        if scale is not None:
            norm = norm / scale
        decision = self.guard.decide(norm, step, self.loss_scale)
        divisor = self._divisor(norm, scale)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if self.decides_on_device:
            self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # torch's protocol, set by GradScaler too
            self.optimizer.found_inf = decision.skip_step.to(torch.float32)  # type: ignore[attr-defined]  # as above
            self.optimizer.step()
        elif not decision.skip_step.item():
            if divisor is not None:
                torch._foreach_div_(gradients, divisor)
            self.optimizer.step()
        if self.statistics is not None:
            self.statistics.commit_or_rollback(decision.skip_step)
        if self.ema is not None:
            self.ema.update_average(model, step, decision.skip_step)
        return decision

    def _divisor(self, norm: Tensor, scale: Tensor | None) -> Tensor | None:
        """What the gradients are to be divided by: loss scale x clipping (as clip_grad_norm_), or None for 1."""
        if self.clip is None:
            return scale
        excess = ((norm + 1e-6) / self.clip).clamp(min=1.0)
        return excess if scale is None else excess * scale


def can_skip_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer honors `found_inf` exactly, its step count included (torch's fused Adam and AdamW do).

    torch's fused SGD leaves its momentum undefined when its very first step is skipped, so it is not among them.
    """
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return False
    return all(bool(group.get("fused")) for group in optimizer.param_groups)
