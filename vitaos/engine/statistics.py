"""Running state: the one part of a model that a forward pass changes.

DeiT, CaiT and Swin have none; batch normalization (re-attention's, and that of some of timm's other models) has its
statistics, a reparametrized weight the vector of its power iteration. It is treated as weights are: a step that is left
out leaves no trace in it, and all ranks hold the same.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vitaos.runtime.world import World

_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


def running_buffers(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in training mode changes; none for DeiT, CaiT and Swin.

    They are those of batch normalization, and those that a module names in ``running``.
    """
    found = [
        getattr(module, name)
        for module in model.modules()
        for name in (_STATISTICS if isinstance(module, _NormBase) else getattr(module, "running", ()))
    ]
    return [buffer for buffer in found if buffer is not None]


class RunningStatistics:
    """The running statistics and vectors of a model.

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
