"""DDP over gloo: ``ranks.py``. Steps of one process in a group, then of two; a JSON line for each.

gloo exchanges gradients on the host, so its threads and the end of the backward pass wait for the device, as NCCL's
kernels would not: those waits do not count.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.null_gpu.programs.miniature import build_run, data_root, overrides_of
from tests.null_gpu.programs.steps import faults_of_steps, read_zeros
from vitaos.runtime.world import World

OF_GLOO = ("no line of the project", "wait (cudaEventSynchronize) at vitaos/engine/micro_batch.py")
WORDS = ("accumulate=2", "attnscale=true", "featscale=true")


def faults_of(rank: int, size: int, rendezvous: Path, root: str) -> list[str]:
    """Three steps of a rank; what its own lines made it wait for."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}-{size}", rank=rank, world_size=size)
    try:
        world = World(rank, size, rank, torch.device("cuda", 0), control=dist.new_group(backend="gloo"))
        run = build_run(overrides_of("deit", root, *WORDS), world=world)
        faults = [fault for fault in faults_of_steps(run) if not any(gloo in fault for gloo in OF_GLOO)]
        if not isinstance(run.trainer.network, DistributedDataParallel):
            faults.append("the network is not distributed")
        return faults
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Rank 0 starts rank 1 for the second part."""
    read_zeros()
    if "NULL_GPU_RANK" in os.environ:
        print(faults_of(1, 2, Path(os.environ["NULL_GPU_RANK"]), data_root()))
        return
    with tempfile.TemporaryDirectory(prefix="null-gpu-ranks-") as folder:
        rendezvous, root = Path(folder, "rendezvous"), data_root()
        for size in (1, 2):
            other = None
            if size == 2:
                environment = os.environ | {"NULL_GPU_RANK": str(rendezvous), "NULL_GPU_DATA": root}
                other = subprocess.Popen([sys.executable, "-m", "tests.null_gpu.programs.ranks"], env=environment)
            try:
                faults = faults_of(0, size, rendezvous, root)
            except Exception:
                faults = [traceback.format_exc(limit=-3, chain=False)]
            if other is not None and other.wait(timeout=300) != 0:
                faults.append("rank 1 failed")
            print(json.dumps({"case": f"DDP of {size}", "faults": faults}), flush=True)


if __name__ == "__main__":
    main()
