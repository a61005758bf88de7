"""Values for the null GPU: every operation is enqueued as usual and then done once more by the CPU, in the same memory.

The device's memory is the host's, so a CPU tensor can lie over a CUDA one. With this a small run steers by true numbers
(losses, flags, counts) although no kernel computes. Eager only; slow; attention takes its plain form, because the fused
kernels exist on CUDA alone.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vitaos.data.augment import gpu_plan
from vitaos.techniques import fold_function


class HostValues(TorchDispatchMode):
    """Computes what is done on CUDA tensors."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Arguments are looked at before the call: in-place operations may change their shapes.
        host_args, host_kwargs = tree_map(_on_host, args), tree_map(_on_host, kwargs)
        result = function(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_cuda]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_cuda]
        if (outputs or inputs) and not _makes_nothing(function):
            values = function(*host_args, **host_kwargs)
            for place, value in zip(_tensors(result), _tensors(values), strict=True):
                if place.is_cuda and place.numel() and place.data_ptr() != value.data_ptr():
                    _on_host(place).copy_(value)
        return result


def compute_everywhere() -> None:
    """From now on, in this thread and the backward passes it starts."""
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    # Its launches are no operations of torch, which this mode would see.
    fold_function._have_triton = lambda: False
    gpu_plan.have_triton = lambda: False
    HostValues().__enter__()


def _makes_nothing(function: Any) -> bool:
    """Views and empty tensors have no values to compute; a copy's destination elsewhere is filled by the device."""
    name = function._schema.name.partition("::")[2]
    return (
        function.is_view or name.startswith(("empty", "new_empty")) or name in {"record_stream", "_local_scalar_dense"}
    )


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _on_host(value: Any) -> Any:
    """The same memory as a CPU tensor; "cpu" for a CUDA device; everything else as it is."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    if not isinstance(value, Tensor) or not value.is_cuda:
        return value
    storage = value.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=value.dtype).set_(whole, value.storage_offset(), value.shape, value.stride())
