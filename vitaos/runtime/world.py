"""The processes of a run: rank, device and collective decisions, under torchrun, srun or no launcher at all."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitaos.runtime.processes import DEVICES

_COLLECTIVE_TIMEOUT: Final = timedelta(minutes=10)
"""How long a collective may wait for a rank before it fails."""

JOIN_NOTICE_S: Final = 60.0
"""Seconds between two messages of a process that waits for the others to start."""

T = TypeVar("T")


class PendingFlag:
    """An asynchronous all-reduce of a flag: started at one step and read at a later one, so nobody waits for it."""

    def __init__(self, flag: Tensor, work: Any = None) -> None:
        self._flag = flag
        self._work = work

    def result(self) -> bool:
        """True on every rank when the flag was true on any."""
        if self._work is not None:
            self._work.wait()
        return bool(self._flag.item())


@dataclass(frozen=True)
class World:
    """This process's place in the run.

    Attributes:
        rank: 0-based number of the process among all.
        size: number of processes.
        local_rank: number of the process on its machine.
        device: where this process computes.
        control: gloo group for decisions of the host, apart from the gradients' traffic; None for one process.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: Any = None

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and prints."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks in place (on its device) and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_object(self, value: T) -> T:
        """Rank 0's `value` (anything that pickles) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's `value` (anything that pickles), by rank, on every rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.control)
        return gathered

    def once_a_node(self, make: Callable[[], T]) -> T:
        """What `make` (its result pickles) gives on one process of this machine, on all of them. A collective call.

        Raises:
            Exception: what `make` raised there.
        """
        if self.size == 1:
            return make()
        machine = socket.gethostname()
        for where, made in self.gather_objects((machine, _attempt(make) if self.local_rank == 0 else None)):
            if where == machine and made is not None:
                value, error = made
                if error is not None:
                    raise error
                return value  # type: ignore[return-value]  # None only where `make` gives it
        return make()  # no process of this machine counts itself as its first

    def any_rank(self, flag: bool) -> PendingFlag:
        """Whether `flag` is true on any rank. A collective call; its result is read later and costs no wait by then."""
        value = torch.tensor([int(flag)], dtype=torch.int32)
        if self.size == 1:
            return PendingFlag(value)
        return PendingFlag(value, dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.control, async_op=True))


def _attempt(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return make(), None
    except Exception as error:
        return None, error


_world: World | None = None


def initialize(device: str = "auto") -> World:
    """Join the other processes of this run; calling it again in one process (Hydra multirun) returns the same world.

    The launcher is recognized by its environment: torchrun (``RANK``), srun (``SLURM_PROCID`` with several tasks in the
    step), or none, which means one process.

    Args:
        device: "auto" (CUDA when there is one), "cpu" or "cuda".

    Raises:
        ValueError: unknown device, CUDA where there is none, more processes on this machine than it has GPUs, or two
            processes on one GPU.
    """
    global _world  # noqa: PLW0603 - a process belongs to one run's group; torch keeps its process group globally too
    rank, size, local_rank = rank_from_env(os.environ)
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if _world is not None and size > 1:
        if _world.device.type != chosen.type:
            raise ValueError(
                f"device={device}: these processes already work together on {_world.device.type}; "
                "a sweep under a launcher keeps one device for all its runs"
            )
        return _world
    control = None
    if size > 1:
        _find_main_address(os.environ)
        if not dist.is_initialized():
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            with _saying_who_waits(rank, size):
                store = _store_of_this_attempt(os.environ, size, _COLLECTIVE_TIMEOUT)
                dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_COLLECTIVE_TIMEOUT)
                control = dist.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT)
        else:
            control = dist.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT)
    joined = World(rank=rank, size=size, local_rank=local_rank, device=chosen, control=control)
    if size > 1 and chosen.type == "cuda":
        uuid = str(torch.cuda.get_device_properties(chosen).uuid)
        refuse_shared_gpus(joined.gather_objects((socket.gethostname(), uuid)))
    _world = joined
    return _world


@contextmanager
def _saying_who_waits(rank: int, size: int) -> Iterator[None]:
    """Say every minute that this process waits for others to start, and at the end of its patience that they did not.

    Raises:
        ValueError: the processes could not join each other.
    """
    joined = threading.Event()
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"

    def say() -> None:
        waited_s = 0.0
        while not joined.wait(JOIN_NOTICE_S):
            waited_s += JOIN_NOTICE_S
            print(
                f"rank {rank} has waited {waited_s:.0f} s at {address} for all {size} processes to start; it gives up "
                f"after {_COLLECTIVE_TIMEOUT.total_seconds():.0f} s",
                file=sys.stderr,
                flush=True,
            )

    threading.Thread(target=say, name="join-notice", daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the {size} processes of this run could not join each other at {address}: one did not start, has died, "
            f"or cannot be reached ({reason:.200})"
        ) from error
    finally:
        joined.set()


def refuse_shared_gpus(gpus: Sequence[tuple[str, str]]) -> None:
    """Raise a ValueError that names the first two ranks with the same GPU; `gpus` holds (machine, GPU's UUID) by rank.

    Processes that see one GPU each (a GPU a task, bound by SLURM) have the same numbers as several that see the same
    one, in which NCCL would fail or hang.
    """
    owners: dict[tuple[str, str], int] = {}
    for rank, gpu in enumerate(gpus):
        owner = owners.setdefault(gpu, rank)
        if owner != rank:
            raise ValueError(
                f"ranks {owner} and {rank} share one GPU ({gpu[1]} of {gpu[0]}). Start one process for each GPU "
                "(torchrun --nproc-per-node=GPUS, or srun --gpus-per-task=1)"
            )


def _store_of_this_attempt(environment: Mapping[str, str], size: int, timeout: timedelta) -> dist.Store | None:
    """Where the processes find each other after torchrun has restarted them; None for torch's own choice.

    torchrun keeps one store for all attempts, and torch's rendezvous does not distinguish them: restarted gloo workers
    read the addresses of the dead ones there and wait for them. On one machine the number of the attempt keeps them
    apart. On several it differs between machines; there `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` makes torchrun open a
    new store (train.sbatch sets it).
    """
    on_one_machine = environment.get("LOCAL_WORLD_SIZE") == str(size)
    if not on_one_machine or environment.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return None
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = dist.TCPStore(host, port, size, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"vitaos/attempt_{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    global _world  # noqa: PLW0603 - see initialize
    _world = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank_from_env(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, size, local rank) according to the launcher's environment variables."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank = int(environment["RANK"])
        return rank, int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank))
    # SLURM_NTASKS is set in a batch script as well, where one process runs; the step's count is set by srun alone.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_PROCID" in environment and tasks > 1:
        return int(environment["SLURM_PROCID"]), tasks, int(environment.get("SLURM_LOCALID", "0"))
    return 0, 1, 0


def choose_device(device: str, local_rank: int) -> torch.device:
    """The device of a process; see :func:`initialize` for the arguments and errors."""
    if device not in DEVICES:
        raise ValueError(f"device={device!r} is unknown; choose one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError(
            "device=cuda, but PyTorch sees no CUDA device here. Use device=cpu (or auto), or check `nvidia-smi`, "
            f"CUDA_VISIBLE_DEVICES and that this PyTorch ({torch.__version__}) was built for CUDA"
        )
    if device == "cpu" or not available:
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 1:  # the machine's only GPU, or this task's own (srun --gpus-per-task=1): initialize distinguishes them
        return torch.device("cuda", 0)
    if local_rank >= count:
        raise ValueError(
            f"local rank {local_rank} has no GPU: this machine shows {count}. "
            f"Start at most {count} processes on it (torchrun --nproc-per-node={count})"
        )
    return torch.device("cuda", local_rank)


def _find_main_address(environment: Any) -> None:
    """srun sets no rendezvous address: take the first host of the step and a port derived from the job."""
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST")
    if nodes is None:
        raise ValueError("several processes were started without MASTER_ADDR and MASTER_PORT; start them with torchrun")
    if "MASTER_ADDR" not in environment:
        command = ["scontrol", "show", "hostnames", nodes]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        environment["MASTER_ADDR"] = names[0]
    if "MASTER_PORT" not in environment:
        number = int(environment.get("SLURM_JOB_ID", "0")) * 31 + int(environment.get("SLURM_STEP_ID", "0"))
        environment["MASTER_PORT"] = str(20000 + number % 20000)
