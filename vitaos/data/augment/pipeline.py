"""Augmentation of whole batches on the device: flip, RandAugment or color jitter, normalize, erase, mix.

The order is that of timm's training pipeline after the random crop, which the loader has done. uint8 images go in,
normalized ones come out. Every draw of an image is a function of (seed, epoch, position in the global order), every
draw of a step of (seed, global step); all are made on the host with NumPy and travel to the device in one copy, so
nothing here waits for the device.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.batch import Batch, Targets
from vitaos.counter_rng import uniforms
from vitaos.data.augment import gpu_plan, rng_streams
from vitaos.data.augment.color_jitter import ColorJitter, ThreeAugment, parse_color_jitter
from vitaos.data.augment.erasing import RandomErasing
from vitaos.data.augment.gpu_plan import Draws, GpuPlan, plan_for_gpu
from vitaos.data.augment.mix_by_image import build_mixer
from vitaos.data.augment.op_batch import OpBatch
from vitaos.data.augment.op_executor import OpExecutor, mean_color, put_images, take_images
from vitaos.data.augment.plan_ahead import PlanAhead
from vitaos.data.augment.randaugment import RandAugment, parse_randaugment
from vitaos.data.augment.settings import (
    DEIT_AUGMENT,
    DEIT_MIX,
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentSettings,
    MixSettings,
)
from vitaos.data.augment.staging import StagingBuffer


class Normalizer:
    """(x / 255 - mean) / std for uint8 images, by channel."""

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
    ) -> None:
        self.dtype = dtype
        self.channels_last = channels_last
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)
        self._placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to a new normalized tensor of the chosen type and memory format."""
        scale, shift = self.on(images.device)
        out = self._room(images, torch.float32)
        torch.mul(images, scale, out=out)
        return out.add_(shift).to(self.dtype)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and shift, float32 (3, 1, 1) each: x * scale + shift is normalized."""
        if device not in self._placed:
            self._placed[device] = (self._scale.to(device), self._shift.to(device))
        return self._placed[device]

    def room_for(self, images: Tensor) -> Tensor:
        """An empty result for these images."""
        return self._room(images, self.dtype)

    def _room(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return torch.empty(images.shape, dtype=dtype, device=images.device, memory_format=layout)


class EvalNormalize:
    """The evaluation transform: uint8 images are normalized, floating ones taken as normalized by the loader.

    Args:
        mean: mean of each channel in 0..1.
        std: standard deviation of each channel in 0..1.
        dtype: type of the result.
        channels_last: give the result that memory format.
    """

    def __init__(
        self,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
    ) -> None:
        self._normalize = Normalizer(mean, std, dtype, channels_last=channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or normalized floating images to normalized ones of the chosen type."""
        if not images.is_floating_point():
            return self._normalize(images)
        layout = torch.channels_last if self._normalize.channels_last else torch.contiguous_format
        return images.to(self._normalize.dtype, memory_format=layout)


class MixOnly:
    """For batches that timm's CPU workers have augmented and normalized: mixup and CutMix alone.

    Args are those of :class:`DeviceAugment` that concern mixing and the form of the result.
    """

    def __init__(
        self,
        mix: MixSettings = DEIT_MIX,
        *,
        num_classes: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        self.mixer = build_mixer(mix, num_classes=num_classes, seed=seed)
        self.dtype = dtype
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Targets]:
        """Mix a batch of normalized floating images; the batch itself is left as it was.

        Raises:
            ValueError: for uint8 images, which have not been normalized.
        """
        if not batch.images.is_floating_point():
            raise ValueError(
                "augment=timm expects images that the loader has normalized, but got uint8; use augment=device for them"
            )
        images = batch.images.to(self.dtype, copy=self.mixer.enabled, memory_format=self.layout)
        return self.mixer(images, batch.targets, step=step, epoch=epoch, positions=host_positions(batch.positions))


class DeviceAugment:
    """The whole training augmentation of a uint8 batch, on CPU and CUDA tensors alike.

    Args:
        settings: what happens to each image.
        mix: what happens to the batch afterwards.
        img_size: side of the images in pixels, or (height, width).
        num_classes: width of mixed targets.
        seed: the run's seed.
        dtype: floating type of the images given out.
        channels_last: give them that memory format.

    Raises:
        ValueError: for an impossible value, naming it, and for three_augment together with randaugment.
    """

    def __init__(
        self,
        settings: AugmentSettings = DEIT_AUGMENT,
        mix: MixSettings = DEIT_MIX,
        *,
        img_size: int | tuple[int, int],
        num_classes: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        if not 0 <= settings.hflip <= 1:
            raise ValueError(f"hflip={settings.hflip} is a probability: give a number from 0 to 1")
        self.height, self.width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.seed = seed
        self.hflip = settings.hflip
        self.policies = _policies(settings.randaugment, settings.color_jitter, settings.three_augment)
        self.executor = OpExecutor(mean_color(settings.mean))
        self.normalize = Normalizer(settings.mean, settings.std, dtype, channels_last=channels_last)
        self.eraser = RandomErasing(
            seed=seed, probability=settings.erasing, mode=settings.erasing_mode, count=settings.erasing_count
        )
        self.mixer = build_mixer(mix, num_classes=num_classes, seed=seed)
        self._plans = PlanAhead(self.plan)

    def has_kernels(self, device: torch.device) -> bool:
        """Whether the kernels of :mod:`gpu_kernels` do the work on that device."""
        return device.type == "cuda" and gpu_plan.have_triton()

    def announce(self, epoch: int, positions: NDArray[np.int64]) -> None:
        """A batch with these positions will come to a GPU: its plan is made in a thread until then."""
        self._plans.announce(epoch, positions)

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Targets]:
        """Augment a batch; the batch itself is left as it was.

        Args:
            batch: uint8 images (B, 3, H, W) and targets on the device; positions on the CPU.
            epoch: 0-based epoch.
            step: global step, counted over the whole run.

        Returns:
            (B, 3, H, W) normalized images, and targets: int64 (B,) where mixing is off, else as the mixer gives them.
        """
        self._check(batch)
        positions = host_positions(batch.positions)
        if self.has_kernels(batch.images.device):
            images = self._by_kernels(batch.images, self._plans.get(epoch, positions))
        else:
            images = self._by_torch(batch.images, epoch, positions)
        return self.mixer(images, batch.targets, step=step, epoch=epoch, positions=positions)

    def plan(self, epoch: int, positions: NDArray[np.int64]) -> GpuPlan:
        """All that happens on a GPU to the images at these positions before they are mixed."""
        boxes = self.eraser.draw(epoch, positions, self.height, self.width)
        draws = Draws(self._draw_flips(epoch, positions), self.draw_op_batches(epoch, positions), *boxes)
        return plan_for_gpu(draws, self.executor.fill, self.height, self.width, pin_memory=torch.cuda.is_available())

    def _by_kernels(self, images: Tensor, plan: GpuPlan) -> Tensor:
        """The images normalized and erased: a few launches whatever the batch holds."""
        from vitaos.data.augment import gpu_kernels  # noqa: PLC0415  # Triton is not everywhere

        there = plan.parcel.on(images.device)
        changed = gpu_kernels.flip_copy(images, there[plan.flips])
        for layer in plan.layers:
            changed = gpu_kernels.apply_layer(
                changed, there[layer.operations], there[layer.parameters], there[plan.fill],
                statistics=layer.statistics,
            )  # fmt: skip
        out = self.normalize.room_for(images)
        gpu_kernels.normalize_and_erase(
            changed, out, *self.normalize.on(images.device), there[plan.boxes], there[plan.bounds],
            self.eraser.quantiles_on(images.device), noise=self.eraser.mode != "const",
            by_pixel=self.eraser.mode == "pixel",
        )  # fmt: skip
        return out

    def _by_torch(self, given: Tensor, epoch: int, positions: NDArray[np.int64]) -> Tensor:
        """The same by torch's operations, grouped by what happens to an image: on the CPU, and without Triton."""
        staging = StagingBuffer()
        flipped = np.flatnonzero(self._draw_flips(epoch, positions))
        flips = staging.add(flipped) if len(flipped) else None
        groups = self.executor.plan(staging, self.draw_op_batches(epoch, positions), self.height, self.width)
        boxes = self.eraser.plan(staging, epoch, positions, self.height, self.width)
        device_tensors = staging.send(given.device)
        images = given.clone(memory_format=torch.contiguous_format)
        if flips is not None:
            put_images(images, device_tensors[flips], take_images(images, device_tensors[flips]).flip(-1))
        images = self.normalize(self.executor.run(images, groups, device_tensors))
        return self.eraser.apply(images, boxes, device_tensors)

    def draw_op_batches(self, epoch: int, positions: NDArray[np.int64]) -> list[OpBatch]:
        """The color and geometry operations of the images at these positions."""
        return [op_batch for policy in self.policies for op_batch in policy.draw(self.seed, epoch, positions)]

    def _draw_flips(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self.hflip == 0:
            return np.zeros(len(positions), np.bool_)
        return np.asarray(uniforms(self.seed, epoch, positions, rng_streams.FLIP, 1)[:, 0] < self.hflip)

    def _check(self, batch: Batch) -> None:
        images = batch.images
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"augment=device expects uint8 images of shape (B, 3, {self.height}, {self.width}), "
                f"but got {images.dtype} of shape {tuple(images.shape)}"
            )


def host_positions(positions: Tensor) -> NDArray[np.int64]:
    """Positions as a NumPy array.

    Raises:
        ValueError: for positions on a device, for which every step would wait.
    """
    if positions.device.type != "cpu":
        raise ValueError(f"batch.positions must stay on the CPU, but they are on {positions.device}")
    return positions.numpy()


def _policies(
    randaugment: str | None, color_jitter: float | tuple[float, ...] | None, three_augment: bool
) -> list[RandAugment | ColorJitter | ThreeAugment]:
    policies: list[RandAugment | ColorJitter | ThreeAugment] = []
    if randaugment and three_augment:
        raise ValueError("three_augment=true replaces RandAugment: set randaugment=null, or three_augment=false")
    if randaugment:
        policies.append(parse_randaugment(randaugment))
    if three_augment:
        policies.append(ThreeAugment())
    jitter = parse_color_jitter(color_jitter)
    if jitter is not None and (not randaugment or "3a" in randaugment):
        policies.append(jitter)
    return policies
