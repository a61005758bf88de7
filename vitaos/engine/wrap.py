"""What surrounds a model while it trains: seeds, memory order, recomputation, compilation, other processes."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitaos.engine.compilation import EAGER, Compilation
from vitaos.engine.statistics import running_buffers
from vitaos.runtime.world import World


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout and drop path draw from; on the host only, no synchronization.

    (torch.manual_seed does the same to every device and backend of the machine, at many times the price.)
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def prepare_network(
    model: nn.Module,
    world: World,
    *,
    compilation: Compilation = EAGER,
    static_shapes: bool = False,
    channels_last: bool = False,
    checkpoint_gradients: bool = False,
) -> nn.Module:
    """Change `model` in place (its state dict keeps its names) and return what the loop calls: it, or DDP around it.

    A single process has no use for DDP, and gets it only where it has opened a process group nevertheless: so NCCL can
    be tried on one GPU.

    Raises:
        ValueError: the model cannot recompute its activations, or not without counting twice in running statistics.
    """
    if checkpoint_gradients:
        enable: Any = getattr(model, "set_grad_checkpointing", None)
        if enable is None:
            raise ValueError(f"checkpoint_gradients=true, but {type(model).__name__} has no set_grad_checkpointing")
        if running_buffers(model):
            raise ValueError(
                "checkpoint_gradients=true runs each block twice, and the running state of this model (batch "
                "normalization's statistics, which re_attention has, or sigma_reparam's vectors) would move twice; "
                "use a smaller batch_size and accumulate instead"
            )
        enable(True)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    compilation.apply(model, static_shapes=static_shapes)
    if world.size == 1 and not dist.is_initialized():
        return model
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    # Buffers are constants, but for running statistics, which RunningStatistics keeps alike; sending them before each
    # forward pass would be for nothing (torch renamed the switch).
    known = inspect.signature(DistributedDataParallel).parameters
    name = "broadcast_buffers" if "forward_sync_buffers" not in known else "forward_sync_buffers"
    quiet: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True, **quiet)


def gradient_exchange(network: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Context of a micro-batch's forward and backward pass: ranks exchange their gradients after the last one only."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()
