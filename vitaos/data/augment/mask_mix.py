"""MaskMix and Patch Mixing: square patches of an image replaced by those of its partner, labels by their share.

A step is mixed so with the chance ``mask``, else as the other mixers would. Its share of own patches, lambda, is a
function of (seed, step): drawn from Beta(1, 1) (MaskMix), or ``mask_ratio`` (Patch Mixing). Of an image's T patches,
the ceil(T lambda) that stay are chosen by (seed, epoch, position); image i gets the others from image B - 1 - i of its
batch (the papers: from a random one). Sources: MaskMix in MixPro, ICLR 2023, arXiv 2304.12043, whose progressive
attention labels are ``vitaos.engine.mixed_labels``; Patch Mixing, arXiv 2306.17848.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import Targets
from vitaos.counter_rng import generator, uniforms
from vitaos.data.augment import rng_streams
from vitaos.data.augment.mixup import BatchMixer, Mix
from vitaos.data.augment.staging import StagingBuffer


class MaskMixer(BatchMixer):
    """Mixes by patches, or else as another mixer does.

    Args:
        other: the mixer of the steps that are not mixed by patches; its settings are these too.

    Raises:
        ValueError: for a chance or a ratio outside 0..1, or patches of less than a pixel.
    """

    def __init__(self, other: BatchMixer) -> None:
        settings = other.settings
        for name, value in (("mask", settings.mask), ("mask_ratio", settings.mask_ratio)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be a number from 0 to 1")
        if settings.mask_patch < 1:
            raise ValueError(f"mask_patch={settings.mask_patch} must be at least 1 pixel")
        super().__init__(settings, num_classes=other.num_classes, seed=other.seed)
        self.other = other

    @property
    def enabled(self) -> bool:
        """As :class:`BatchMixer`'s."""
        return self.settings.mask > 0 or self.other.enabled

    def draw_share(self, step: int) -> float | None:
        """Lambda of a global step, or None where it is left to the other mixer."""
        random = generator(self.seed, step, rng_streams.MASK_MIX)
        if random.random() >= self.settings.mask:
            return None
        return self.settings.mask_ratio or float(random.random())

    def draw_masks(self, share: float, epoch: int, positions: NDArray[np.int64], patches: int) -> NDArray[np.bool_]:
        """(B, patches): which patches of the images at these positions of an epoch are their own."""
        places = uniforms(self.seed, epoch, positions, rng_streams.MASK_MIX, patches)
        ranks = places.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return np.asarray(ranks < np.ceil(patches * share))

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        step: int,
        epoch: int | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Targets]:
        """As :class:`BatchMixer`, which needs neither epoch nor positions.

        Raises:
            ValueError: without epoch or positions, or where the patches do not divide the images.
        """
        share = self.draw_share(step)
        if share is None and self.other.enabled:
            return self.other(images, targets, step=step, epoch=epoch, positions=positions)
        size = images.shape[-2], images.shape[-1]
        tell = self.settings.tell_cells
        if share is None:
            cells = Mix(1.0, None).cells(*size, images.device) if tell else None
            return images, self.mix_labels(targets, 1.0, cells, size)
        if epoch is None or positions is None:
            raise ValueError("mask > 0 draws patches for each image: give epoch and positions")
        rows, columns = patch_grid(*size, self.settings.mask_patch)
        own = self.draw_masks(share, epoch, positions, rows * columns)
        staging = StagingBuffer()
        mask, weight = staging.add(own), staging.add(own.mean(axis=1, keepdims=True, dtype=np.float32))
        there = staging.send(images.device)
        own_B1RC = there[mask].view(-1, 1, rows, columns)
        cells = own_B1RC.squeeze(1).float() if tell else None
        return mix_patches(images, own_B1RC), self.mix_labels(targets, there[weight], cells, size)


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of ``patch`` pixels in an image.

    Raises:
        ValueError: where they do not fill the image.
    """
    if height % patch or width % patch:
        raise ValueError(f"mask_patch={patch} pixels must divide the images' sides, {height} x {width}")
    return height // patch, width // patch


def mix_patches(images: Tensor, own: Tensor) -> Tensor:
    """Keep the patches that are an image's own, take the others from its mirror in the batch; in place.

    Args:
        images: (B, C, H, W).
        own: (B, 1, rows, columns) truth values.
    """
    down, across = images.shape[-2] // own.shape[-2], images.shape[-1] // own.shape[-1]
    pixels = own.repeat_interleave(down, dim=2).repeat_interleave(across, dim=3)
    return images.copy_(torch.where(pixels, images, images.flip(0)))
