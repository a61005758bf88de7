"""What a run ran on, to distinguish it from its twin: code, packages, hardware, seed, scheduler."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from vitaos.files import write_text
from vitaos.runtime.processes import usable_cores

_PACKAGES: Final = (
    "vitaos", "torch", "torchvision", "timm", "numpy", "hydra-core", "omegaconf", "ffcv", "pillow", "safetensors",
    "wandb", "scikit-learn", "numba",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions of the packages a run's numbers may depend on; those not installed are left out."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def code_version() -> dict[str, Any]:
    """The git commit of the code and whether files differ from it; both None outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status) if status is not None else None}


def versions(*, seed: int, world_size: int) -> dict[str, Any]:
    """The short form that goes into every checkpoint (key ``versions``): plain strings and numbers only."""
    return {
        "code": code_version(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "seed": seed,
        "world_size": world_size,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _hardware() -> dict[str, Any]:
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append({"name": properties.name, "memory_bytes": properties.total_memory})
    return {"cpu": _processor(), "cpus": usable_cores(), "machine": platform.machine(), "gpus": devices}


def describe_session(*, seed: int, world_size: int, resumed_from: str | None = None) -> dict[str, Any]:
    """All there is to know about this start of a run (rank 0's view)."""
    scheduler = {key: value for key, value in sorted(os.environ.items()) if key.startswith(("SLURM_", "TORCHELASTIC_"))}
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        **versions(seed=seed, world_size=world_size),
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "hardware": _hardware(),
        "threads": torch.get_num_threads(),
        "scheduler": scheduler,
        "resumed_from": resumed_from,
    }


def append_session(path: str | Path, session: dict[str, Any]) -> None:
    """Add a session to ``environment.json`` (``{"sessions": [...]}``, oldest first), whole or not at all."""
    path = Path(path)
    sessions: list[Any] = []
    if path.exists():
        try:
            sessions = json.loads(path.read_text())["sessions"]
        except (ValueError, KeyError, TypeError):
            path.replace(path.with_name(path.name + ".damaged"))
    write_text(path, json.dumps({"sessions": [*sessions, session]}, indent=2) + "\n")
