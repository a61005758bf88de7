"""Arithmetic wide enough for what a low precision would lose."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or the dtype itself where it is wider."""
    return torch.promote_types(dtype, torch.float32)


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32 or wider; the tensor itself where it is so already."""
    return x.to(wide_dtype(x.dtype))


def no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Arithmetic in the types as they are; torch knows no autocast of shapes alone (``meta``)."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)
