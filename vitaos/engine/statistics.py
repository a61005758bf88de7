"""Running statistics of normalizations: the one part of a model that a forward pass changes.

DeiT, CaiT and Swin have none; re-attention's batch normalization has, and so have some of timm's other models. They are
treated as weights are: a step that is left out leaves no trace in them, and all ranks hold the same.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vitaos.runtime.world import World


def running_buffers(model: nn.Module) -> list[Tensor]:
    """The running means, variances and counts of a model; none for DeiT, CaiT and Swin."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, _NormBase)
        for buffer in (module.running_mean, module.running_var, module.num_batches_tracked)
        if buffer is not None
    ]


class RunningStatistics:
    """The running means, variances and counts of a model.

    Args:
        model: not wrapped, on its device; its buffers stay the same tensors while it trains.
        world: the processes.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        self._buffers = running_buffers(model)
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def commit_or_rollback(self, skip_step: Tensor) -> None:
        """After a step's decision (bool scalar on the device, the same on all ranks): what it was before a skipped
        step, else the mean over the ranks. One small exchange for models that have statistics, nothing for others."""
        if not self._buffers:
            return
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(skip_step, kept, buffer))
        if self._world.size > 1:
            self._average()
        self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """Take what the model holds now (a loaded state) as the values to go back to."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            kept.copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        """Forget the forward passes since the last step."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)

    def _average(self) -> None:
        floating = [buffer for buffer in self._buffers if buffer.is_floating_point()]
        flat = torch.cat([buffer.double().flatten() for buffer in floating])
        mean = self._world.all_reduce(flat) / self._world.size
        for buffer, part in zip(floating, mean.split([buffer.numel() for buffer in floating]), strict=True):
            buffer.copy_(part.view_as(buffer))
