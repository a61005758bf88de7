"""What a measurement was made on, and how fast that could be."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from vitaos.gpus import CEILINGS, find_gpu


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """(FLOP/s that the device can do at most in `precision`, where the number is from).

    From the data sheet where ``vitaos.gpus`` has it, else measured here with large matrix products.
    """
    gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is not None:
        peak = CEILINGS[gpu].single if precision == "fp32" else CEILINGS[gpu].half
        if peak is not None:
            return 1e12 * peak, f"data sheet of {gpu}"
    return _measured_peak(device, precision), "a matrix product measured here"


def _measured_peak(device: torch.device, precision: str) -> float:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    size = 8192 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(30):  # the fastest of many: other programs only ever slow it down
        synchronize(device)
        begin = time.perf_counter()
        left @ left
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device (nothing to wait for on the CPU)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Most memory in use since :meth:`start`: of tensors on a CUDA device, of the whole process on the CPU (Linux)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Bytes, 0 where the system does not report them."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, to stand beside every number."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
