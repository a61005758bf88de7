"""The units that travel from a loader through the augmentation into a training step."""

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


class MixedTargets(NamedTuple):
    """Targets of mixed images that say where in an image its own pixels are.

    Attributes:
        labels: (B, classes) float32: both classes of each image, weighed by area.
        own, partner: (B,) int64, the two classes.
        cells: (B or 1, rows, columns) float32, the share of own pixels in each cell of a grid that fills the image; its
            mean is the own label's weight by area.
        size: (height, width) of the images in pixels.
    """

    labels: Tensor
    own: Tensor
    partner: Tensor
    cells: Tensor
    size: tuple[int, int]


Targets = Tensor | MixedTargets
"""Class indices (B,), class weights (B, classes), or these with the mask of the mix."""
