"""Mixup and CutMix with draws of their own for each image or pair: timm's modes ``elem`` and ``pair``.

Image i is mixed with image B - 1 - i of its batch. What happens to an image is a function of (seed, epoch, position in
the global order); in a pair the image that comes first draws for both. Distribution as ``timm.data.Mixup``.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import Targets
from vitaos.counter_rng import derive_seed, normals, uniforms
from vitaos.data.augment import rng_streams
from vitaos.data.augment.mask_mix import MaskMixer
from vitaos.data.augment.mixup import BatchMixer
from vitaos.data.augment.settings import MixSettings
from vitaos.data.augment.staging import StagingBuffer


class ImageMixes(NamedTuple):
    """What happens to the images of a batch.

    Attributes:
        lam: (B,) float32, weight of an image's own label; 1 where nothing is mixed.
        partner: (B,) float32, share of the partner's pixels within the box: 1 for CutMix, 1 - lam for mixup.
        boxes: (B, 4) int32 (top, bottom, left, right); the whole image for mixup.
    """

    lam: NDArray[np.float32]
    partner: NDArray[np.float32]
    boxes: NDArray[np.int32]


class ImageMixer(BatchMixer):
    """Draws and applies mixup or CutMix by image (``settings.mode`` of ``elem``) or by pair (``pair``)."""

    def draw_images(self, epoch: int, positions: NDArray[np.int64], height: int, width: int) -> ImageMixes:
        """The mixes of the images at these positions of an epoch, for images of the given size in pixels."""
        if self.settings.mode == "pair":
            positions = np.concatenate((positions[: (len(positions) + 1) // 2], positions[: len(positions) // 2][::-1]))
        mixup, cutmix = self.settings.mixup, self.settings.cutmix
        chances = uniforms(self.seed, epoch, positions, rng_streams.MIX_CHOICE, 4)
        mixed = chances[:, 0] < self.settings.probability
        paste = chances[:, 1] < self.settings.switch if mixup > 0 and cutmix > 0 else np.full(len(mixed), cutmix > 0)
        lam = np.ones(len(positions))
        for alpha, chosen in ((mixup, mixed & ~paste), (cutmix, mixed & paste)):
            if alpha > 0 and chosen.any():
                lam[chosen] = _symmetric_beta(self.seed, epoch, positions[chosen], alpha)
        side = np.sqrt(1.0 - lam)
        top, bottom = _interval((chances[:, 2] * height).astype(np.int64), (height * side).astype(np.int64), height)
        left, right = _interval((chances[:, 3] * width).astype(np.int64), (width * side).astype(np.int64), width)
        boxes = np.stack((top, bottom, left, right), axis=1)
        boxes[~paste] = 0, height, 0, width
        lam = np.where(paste, 1.0 - (bottom - top) * (right - left) / float(height * width), lam)
        partner = np.where(paste, 1.0, 1.0 - lam)
        return ImageMixes(lam.astype(np.float32), partner.astype(np.float32), boxes.astype(np.int32))

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
            ValueError: without epoch or positions.
        """
        if not self.enabled:
            return images, targets
        if epoch is None or positions is None:
            raise ValueError(f"mode={self.settings.mode} draws for each image: give epoch and positions")
        height, width = images.shape[-2:]
        mixes = self.draw_images(epoch, positions, height, width)
        staging = StagingBuffer()
        handles = [staging.add(array) for array in mixes]
        there = staging.send(images.device)
        lam, partner, boxes = (there[handle] for handle in handles)
        cells = 1.0 - partner_pixels(partner, boxes, height, width) if self.settings.tell_cells else None
        return mix_each(images, partner, boxes), self.mix_labels(targets, lam.view(-1, 1), cells, (height, width))


def build_mixer(settings: MixSettings, *, num_classes: int, seed: int) -> BatchMixer:
    """The mixer of the settings; arguments and errors as :class:`BatchMixer` and :class:`MaskMixer`."""
    kind = BatchMixer if settings.mode == "batch" else ImageMixer
    mixer = kind(settings, num_classes=num_classes, seed=seed)
    return MaskMixer(mixer) if settings.mask != 0 else mixer


def mix_each(images: Tensor, partner: Tensor, boxes: Tensor) -> Tensor:
    """Mix (B, C, H, W) images with their mirror in the batch, each by its share within its box, in place."""
    share = partner_pixels(partner, boxes, images.shape[-2], images.shape[-1]).unsqueeze(1)
    return images.lerp_(images.flip(0), share.to(images.dtype))


def partner_pixels(partner: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width): how much of each pixel is the partner's; arguments as in :class:`ImageMixes`."""
    top, bottom, left, right = boxes.view(-1, 4, 1, 1).unbind(1)
    row = torch.arange(height, device=boxes.device).view(-1, 1)
    column = torch.arange(width, device=boxes.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return inside * partner.view(-1, 1, 1)


def _interval(
    center: NDArray[np.int64], length: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of intervals around centers, clipped to 0..size."""
    return np.maximum(center - length // 2, 0), np.minimum(center + (length + 1) // 2, size)


def _symmetric_beta(seed: int, epoch: int, positions: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Draws of Beta(alpha, alpha) by position: G / (G + G') of two gamma draws, in logarithms for small alpha."""
    first, second = (_log_gamma_draw(derive_seed(seed, number), epoch, positions, alpha) for number in (0, 1))
    return np.asarray(np.exp(-np.logaddexp(0.0, second - first)))


def _log_gamma_draw(seed: int, epoch: int, positions: NDArray[np.int64], shape: float) -> NDArray[np.float64]:
    """Logarithms of Gamma(shape) draws by Marsaglia and Tsang 2000, for a shape below 1 from those of shape + 1."""
    boost = np.log1p(-uniforms(seed, epoch, positions, rng_streams.MIX_BOOST, 1)[:, 0]) / shape if shape < 1 else 0.0
    d = (shape if shape >= 1 else shape + 1.0) - 1.0 / 3.0
    drawn = np.empty(len(positions))
    open_ones, attempt = np.arange(len(positions)), 0
    while len(open_ones):
        own = derive_seed(seed, attempt)
        x = normals(own, epoch, positions[open_ones], rng_streams.MIX_NORMAL, 1)[:, 0]
        u = 1.0 - uniforms(own, epoch, positions[open_ones], rng_streams.MIX_ACCEPT, 1)[:, 0]
        v = np.maximum(1.0 + x / np.sqrt(9.0 * d), 1e-300) ** 3
        with np.errstate(divide="ignore"):
            accepted = (v > 0) & (np.log(u) < 0.5 * x * x + d - d * v + d * np.log(v))
            drawn[open_ones[accepted]] = np.log(d * v[accepted])
        open_ones, attempt = open_ones[~accepted], attempt + 1
    return drawn + boost
