"""Cores, memory, limits of the process, and the scheduler's variables."""

import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from vitaos.doctor.finding import Finding, ok, warning
from vitaos.runtime.processes import usable_cores

CORES_A_GPU: Final = 8
"""A core decodes about 1,300 images/s of FFCV's ImageNet (docs/scaling.md); a GPU may take some thousands."""
_OPEN_FILES: Final = 4096
_SHARED_MEMORY: Final = 2 << 30
_MEMORY_A_GPU: Final = 16 << 30


def cores() -> list[Finding]:
    """Cores that this process may use, for each GPU."""
    mine, whole = usable_cores(), os.cpu_count() or 1
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    detail = f"{mine} of {whole} may be used"
    if not gpus:
        return [ok("cores", detail)]
    detail += f", {mine / gpus:g} for each of {gpus} GPU(s)"
    if mine < CORES_A_GPU * gpus:
        cure = f"ask for {CORES_A_GPU * gpus} (sbatch --cpus-per-task), or write FFCV files: they decode fastest"
        return [warning("cores", detail, cure)]
    return [ok("cores", detail)]


def memory() -> list[Finding]:
    """Memory that is left, and the shared memory of loader workers."""
    findings = []
    available = available_memory()
    gpus = max(1, torch.cuda.device_count() if torch.cuda.is_available() else 1)
    if available:
        detail = f"{available / 2**30:.0f} GiB available"
        if available < _MEMORY_A_GPU * gpus:
            cure = f"ask for {_MEMORY_A_GPU * gpus >> 30} GiB (sbatch --mem), or lower data.workers and data.prefetch"
            findings.append(warning("memory", detail, cure))
        else:
            findings.append(ok("memory", detail))
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        detail = f"/dev/shm holds {size / 2**30:.1f} GiB"
        cure = "docker run --ipc=host (or --shm-size=8g); FFCV files do without it"
        small = size < _SHARED_MEMORY
        findings.append(warning("shared memory", detail, cure) if small else ok("shared memory", detail))
    return findings


def available_memory() -> int:
    """Bytes that programs may still take, page cache included; 0 where the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 0)


def limits() -> list[Finding]:
    """``ulimit``: open files, processes and locked memory."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"ulimit -n is {_limit(files)}"
    few = files != resource.RLIM_INFINITY and files < _OPEN_FILES
    findings = [warning("open files", detail, f"ulimit -n {_OPEN_FILES}") if few else ok("open files", detail)]
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    detail = f"ulimit -u is {_limit(processes)}"
    few = processes != resource.RLIM_INFINITY and processes < _OPEN_FILES
    findings.append(warning("processes", detail, f"ulimit -u {_OPEN_FILES}") if few else ok("processes", detail))
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    detail = f"ulimit -l is {_limit(locked, 1024)}"
    if locked != resource.RLIM_INFINITY and Path("/dev/infiniband").exists():
        return [
            *findings,
            warning("locked memory", detail, "ulimit -l unlimited: NCCL over InfiniBand locks its buffers"),
        ]
    return [*findings, ok("locked memory", detail)]


def _limit(value: int, unit: int = 1) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value // unit)


def scheduler(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """What SLURM gave to this job, and what does not fit together."""
    if "SLURM_JOB_ID" not in environment:
        return [ok("SLURM", "not in a job")]
    shown = ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE")
    detail = ", ".join(f"{name.removeprefix('SLURM_')}={environment[name]}" for name in shown if name in environment)
    findings = [ok("SLURM", detail)]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = _number(environment.get("SLURM_GPUS_ON_NODE"))
    if asked is not None and asked > gpus:
        each = environment.get("SLURM_GPUS_PER_TASK") or environment.get("SLURM_TRES_BIND", "")
        if not each:
            cure = "look at CUDA_VISIBLE_DEVICES, and start inside the job (srun or sbatch, not the login node)"
            findings.append(warning("SLURM GPUs", f"the job has {asked} here, torch sees {gpus}", cure))
    tasks = _number(environment.get("SLURM_NTASKS_PER_NODE"))
    if tasks is not None and tasks > 1 and "SLURM_STEP_ID" not in environment:
        detail = f"{tasks} tasks a node were asked for, and this is not one of them"
        cure = "start with srun, or ask for one task a node and let torchrun start the processes (train.sbatch does)"
        findings.append(warning("SLURM tasks", detail, cure))
    if asked and "SLURM_CPUS_PER_TASK" not in environment and "SLURM_CPUS_PER_GPU" not in environment:
        cure = f"sbatch --cpus-per-task={CORES_A_GPU * asked} (or --cpus-per-gpu={CORES_A_GPU})"
        findings.append(warning("SLURM cores", "the job asked for no number of cores", cure))
    return findings


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def threads(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """OMP_NUM_THREADS, of which each process of a machine takes as many."""
    asked = _number(environment.get("OMP_NUM_THREADS"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked is None or asked * max(gpus, 1) <= usable_cores():
        return [ok("threads", f"OMP_NUM_THREADS is {asked if asked is not None else 'not set (torchrun sets 1)'}")]
    detail = f"OMP_NUM_THREADS={asked} for each of {max(gpus, 1)} process(es) on {usable_cores()} cores"
    return [warning("threads", detail, "export OMP_NUM_THREADS=1")]
