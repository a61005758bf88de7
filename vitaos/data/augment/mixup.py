"""Mixup and CutMix of a batch, in timm's batch mode (one lambda and one box for the whole batch).

Lambda, the choice between the two and the box are functions of (seed, global step) alone, hence the same on every
process and in every micro-batch of a step; image i is mixed with image B - 1 - i of its own batch. Label smoothing is
left to the loss. Sources: mixup arXiv 1710.09412, CutMix arXiv 1905.04899; distribution as ``timm.data.Mixup``.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import MixedTargets, Targets
from vitaos.counter_rng import generator
from vitaos.data.augment import gpu_plan, rng_streams
from vitaos.data.augment.settings import DEIT_MIX, MixSettings

MODES: Final = ("batch", "pair", "elem")
_CPU_PIECE_VALUES: Final = 1 << 14


class Mix(NamedTuple):
    """What happens to the batches of one global step.

    Attributes:
        lam: weight of an image's own label, 1 when nothing is mixed; for CutMix corrected to the area really kept.
        box: (top, bottom, left, right) of the pasted rectangle, or None for mixup.
    """

    lam: float
    box: tuple[int, int, int, int] | None

    def cells(self, height: int, width: int, device: torch.device) -> Tensor:
        """Where images keep their own pixels: (1, height, width), or (1, 1, 1) where each pixel is mixed alike."""
        if self.box is None:
            return torch.full((1, 1, 1), self.lam, device=device)
        own_1HW = torch.ones(1, height, width, device=device)
        top, bottom, left, right = self.box
        own_1HW[:, top:bottom, left:right] = 0.0
        return own_1HW


class BatchMixer:
    """Draws and applies mixup or CutMix.

    Args:
        settings: what may be mixed, how much and how often.
        num_classes: width of the mixed targets.
        seed: the run's seed.

    Raises:
        ValueError: for a negative alpha, a chance outside 0..1, an unknown mode, or fewer than one class.
    """

    def __init__(self, settings: MixSettings = DEIT_MIX, *, num_classes: int, seed: int) -> None:
        for name, alpha in (("mixup", settings.mixup), ("cutmix", settings.cutmix)):
            if alpha < 0:
                raise ValueError(f"{name}={alpha} must be 0 (off) or a positive Beta parameter such as 0.8")
        for name, chance in (("mix_probability", settings.probability), ("mix_switch", settings.switch)):
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}={chance} is a probability: give a number from 0 to 1")
        if settings.mode not in MODES:
            raise ValueError(f"mode={settings.mode!r} is unknown; choose one of {', '.join(MODES)}")
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        self.settings = settings
        self.num_classes = num_classes
        self.seed = seed

    @property
    def enabled(self) -> bool:
        """Whether any step may be mixed; if so, targets are float for every step, mixed or not."""
        return (self.settings.mixup > 0 or self.settings.cutmix > 0) and self.settings.probability > 0

    def draw(self, step: int, height: int, width: int) -> Mix:
        """The mix of global step ``step`` for images of the given size in pixels."""
        random = generator(self.seed, step, rng_streams.MIX)
        if not self.enabled or random.random() >= self.settings.probability:
            return Mix(1.0, None)
        both = self.settings.mixup > 0 and self.settings.cutmix > 0
        paste = random.random() < self.settings.switch if both else self.settings.cutmix > 0
        if not paste:
            return Mix(float(random.beta(self.settings.mixup, self.settings.mixup)), None)
        lam = float(random.beta(self.settings.cutmix, self.settings.cutmix))
        return cutmix_bbox(lam, int(random.integers(height)), int(random.integers(width)), height, width)

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        step: int,
        epoch: int | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Targets]:
        """Mix a batch; ``images`` is changed in place.

        Args:
            images: (B, C, H, W) floating, any B.
            targets: (B,) int64 class indices.
            step: global step.
            epoch, positions: of no consequence where all images share their draws.

        Returns:
            images, and float32 (B, num_classes) targets (``settings.tell_cells``: with where the images' own pixels
            are), or the int64 targets where mixing is off altogether.
        """
        if not self.enabled:
            return images, targets
        height, width = images.shape[-2:]
        mix = self.draw(step, height, width)
        cells = mix.cells(height, width, images.device) if self.settings.tell_cells else None
        return mix_images(images, mix), self.mix_labels(targets, mix.lam, cells, (height, width))

    def mix_labels(
        self, targets: Tensor, lam: float | Tensor, cells: Tensor | None, size: tuple[int, int]
    ) -> Tensor | MixedTargets:
        """Targets of mixed images, each as :class:`vitaos.batch.MixedTargets` and :func:`mix_targets` have it."""
        labels = mix_targets(targets, lam, self.num_classes)
        return labels if cells is None else MixedTargets(labels, targets, targets.flip(0), cells, size)


def cutmix_bbox(lam: float, center_y: int, center_x: int, height: int, width: int) -> Mix:
    """The CutMix rectangle of area (1 - lam) around a center, clipped to the image, with lambda corrected."""
    ratio = np.sqrt(1.0 - lam)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    top, bottom = max(center_y - cut_height // 2, 0), min(center_y + (cut_height + 1) // 2, height)
    left, right = max(center_x - cut_width // 2, 0), min(center_x + (cut_width + 1) // 2, width)
    return Mix(1.0 - (bottom - top) * (right - left) / float(height * width), (top, bottom, left, right))


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix (B, C, H, W) images with their mirror in the batch, in place."""
    if mix.lam == 1.0:
        return images
    if mix.box is None:
        _blend_pairs(images, mix.lam)
        return images
    top, bottom, left, right = mix.box
    region = images[:, :, top:bottom, left:right]
    region.copy_(region.flip(0))  # flip copies first, so source and destination do not overlap
    return images


def _blend_pairs(images: Tensor, lam: float) -> None:
    """Blend image i with image B - 1 - i, both ways, in place; the middle one of an odd batch is its own partner."""
    if images.is_cuda and gpu_plan.have_triton() and _is_dense(images):
        from vitaos.data.augment.gpu_mixing import blend_pairs  # noqa: PLC0415  # Triton is not everywhere

        blend_pairs(images, lam)
        return
    size = images.shape[0]
    # On the CPU pair by pair, which stays in cache and takes no second batch of memory; on a GPU all at once.
    step = 1 if images.device.type == "cpu" and images[:1].numel() >= _CPU_PIECE_VALUES else max(1, size // 2)
    for start in range(0, size // 2, step):
        stop = min(start + step, size // 2)
        first, second = images[start:stop], images[size - stop : size - start]
        swapped = first.flip(0)
        first.mul_(lam).add_(second.flip(0), alpha=1.0 - lam)
        second.mul_(lam).add_(swapped, alpha=1.0 - lam)


def _is_dense(images: Tensor) -> bool:
    return images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)


def mix_targets(targets: Tensor, lam: float | Tensor, num_classes: int) -> Tensor:
    """(B,) class indices to (B, num_classes) float32 weights: lam for the own class, 1 - lam for the partner's.

    `lam` is a number, or (B, 1) float32.
    """
    weights = torch.zeros(targets.shape[0], num_classes, device=targets.device)
    own = targets.view(-1, 1)
    if isinstance(lam, Tensor):
        return weights.scatter_(1, own, lam).scatter_add_(1, own.flip(0), 1.0 - lam)
    weights.scatter_(1, own, lam)
    return weights.scatter_add_(1, own.flip(0), torch.full_like(own, 1.0 - lam, dtype=torch.float32))
