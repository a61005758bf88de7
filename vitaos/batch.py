"""The unit that travels from a loader through the augmentation into a training step."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images with their labels and their place in the order of the epoch.

    Attributes:
        images: (B, 3, H, W); uint8 in 0..255 when the augmentation runs on the device, float32 and normalized when the
            loader's workers have done everything.
        targets: (B,) int64 class indices.
        positions: (B,) int64, on the CPU; in training the 0-based place of each image in the global order of the epoch,
            from which all of its random draws follow; in evaluation the index of the image in the dataset.
    """

    images: Tensor
    targets: Tensor
    positions: Tensor

    def on(self, device: torch.device) -> "Batch":
        """The images and targets on a device; the positions stay where the host reads them without waiting.

        Out of page-locked memory the copies run beside the host.
        """
        return self._replace(
            images=self.images.to(device, non_blocking=True), targets=self.targets.to(device, non_blocking=True)
        )
