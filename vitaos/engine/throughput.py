"""How well a run uses its machine: model FLOPs utilization and memory, for the line of each epoch."""

import resource
import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from vitaos.gpus import CEILINGS, find_gpu

Throughput = Callable[[float], dict[str, Any]]
"""What the line of an epoch says of it, from the images/s of all processes together."""

_TRAINING: Final = 3
"""A training step takes three times the operations of a forward pass: forward, and two products backward for each."""


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the device can do at most in 16 bits; None where that is not known."""
    gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if gpu is None else 1e12 * CEILINGS[gpu].half


def throughput(device: torch.device, *, processes: int, forward_flops: int | None) -> Throughput:
    """What the line of an epoch says besides images/s.

    Args:
        device: of this process.
        processes: how many share the images.
        forward_flops: of one image; None where they could not be counted.

    Returns:
        A function to ``tflops`` (operations of the model in a training step, a process and second, in 10^12), ``mfu``
        (their share of the device's peak in 16 bits) and ``memory_gb`` (the most that tensors took on this device; on
        the CPU the most that this process took), each None where it is not known.
    """
    peak = peak_flops(device)

    def measure(images_per_s: float) -> dict[str, Any]:
        flops = None if forward_flops is None else _TRAINING * forward_flops * images_per_s / processes
        return {
            "tflops": None if flops is None else flops / 1e12,
            "mfu": None if flops is None or peak is None else flops / peak,
            "memory_gb": _peak_memory(device) / 1e9,
        }

    return measure


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, kB on Linux
