"""Number formats of training: bf16 autocast, fp16 autocast with loss scaling, or fp32 with TF32 products."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
_CUBLAS_WORKSPACES: Final = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS repeats its bits, by its manual; torch accepts no others."""


@dataclass(frozen=True)
class Precision:
    """How forward passes compute; parameters, gradients and optimizer state stay in fp32.

    Attributes:
        name: "bf16", "fp16" or "fp32".
        device: where.
    """

    name: str
    device: torch.device

    @property
    def scales_loss(self) -> bool:
        """fp16's small range needs the loss to be scaled."""
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[object]:
        """Context for a forward pass."""
        dtype = DTYPES[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


def build_precision(name: str, device: torch.device) -> Precision:
    """Check that `device` can compute in `name`, and choose TF32 for the products that stay in fp32.

    Raises:
        ValueError: unknown name, or a device without the format.
    """
    if name not in DTYPES:
        raise ValueError(f"precision={name!r} is unknown; choose one of {', '.join(DTYPES)}")
    if device.type == "cuda":
        if name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(
                f"precision=bf16, but {torch.cuda.get_device_name(device)} has no bfloat16 units (they begin with "
                "Ampere, A100). Use precision=fp16"
            )
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    return Precision(name, device)


class LossScale:
    """The dynamic loss scale of fp16, all on the device.

    The rule and its constants are torch.amp.GradScaler's (start at 2^16, halve on overflow, double after 2000 good
    steps). GradScaler itself makes its own pass over the gradients to look for infinities and decides alone whether
    to step; here one decision, taken from the gradients' norm, governs scale, clipping, optimizer and EMA. Two
    further differences: the scale stops at 1, since an overflow there is no overflow but a NaN that no scale cures,
    and it can be held still while a run waits to be stopped.
    """

    def __init__(self, device: torch.device, *, initial: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = torch.tensor(initial, dtype=torch.float32, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int64, device=device)
        self.growth_interval = growth_interval

    def update(self, overflow: Tensor, frozen: Tensor) -> None:
        """Adapt the scale after a step; `overflow` and `frozen` are bool scalars on the device."""
        grows = self.good_steps + 1 >= self.growth_interval
        adapted = torch.where(
            overflow, (self.scale * 0.5).clamp(min=1.0), torch.where(grows, self.scale * 2, self.scale)
        )
        counted = torch.where(overflow | grows, 0, self.good_steps + 1)
        self.scale.copy_(torch.where(frozen, self.scale, adapted))
        self.good_steps.copy_(torch.where(frozen, self.good_steps, counted))

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.scale.copy_(state["scale"])
        self.good_steps.copy_(state["good_steps"])


@contextmanager
def determinism() -> Iterator[None]:
    """:func:`enable_determinism` as long as a run lasts; the settings before it come back with its end."""
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, attention = torch.backends.cudnn, torch.backends.cuda.cudnn_sdp_enabled()
    chosen, benchmark = cudnn.deterministic, cudnn.benchmark
    enable_determinism()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = chosen, benchmark
        torch.backends.cuda.enable_cudnn_sdp(attention)


def enable_determinism() -> None:
    """Let CUDA compute the same bits every time: what has no such form raises torch's error, which names the operation.

    The CPU does so anyway. Call it before the device is first used: cuBLAS reads its setting once. Attention's backward
    pass (flash and memory-efficient) takes its deterministic form only where a mere warning was not asked for; cuDNN's
    attention has none and is left out, and its convolutions are chosen by rule, not by timing.

    Raises:
        ValueError: ``CUBLAS_WORKSPACE_CONFIG`` is set to a value with which cuBLAS may differ between runs.
    """
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACES[0])
    if workspace not in _CUBLAS_WORKSPACES:
        raise ValueError(
            f"deterministic=true, but CUBLAS_WORKSPACE_CONFIG={workspace} lets cuBLAS differ between runs. Unset "
            f"it, or set it to {' or '.join(_CUBLAS_WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True, warn_only=False)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)
