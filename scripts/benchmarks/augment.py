"""Rate of the augmentation alone: the batched one on a device, and timm's on one CPU core for the same recipe.

Both work on pieces of scikit-learn's two sample photographs. ``images_per_s`` is by the wall clock;
``images_per_cpu_s`` divides by the processor time of this process, which other programs on the machine disturb less (on
a GPU it only shows how little the host has to do).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from scripts.benchmarks.hardware import synchronize
from vitaos.batch import Batch
from vitaos.data.augment.pipeline import DeviceAugment
from vitaos.data.folder.timm_transform import posterize_to_black

NUM_CLASSES: Final = 1000
PHOTOGRAPH_SIDE: Final = 500  # longer side, as of the median ImageNet photograph


@dataclass(frozen=True)
class AugmentRate:
    """A rate of augmentation.

    Attributes:
        name: what was measured.
        device: where.
        threads: torch's threads on the CPU.
        images_per_s: by the wall clock.
        images_per_cpu_s: by the processor time of this process, over all its threads.
    """

    name: str
    device: str
    threads: int
    images_per_s: float
    images_per_cpu_s: float


def measure_augment(
    *,
    batch_size: int = 1024,
    img_size: int = 224,
    device: str | torch.device = "cpu",
    batches: int = 10,
    warmup: int = 3,
    threads: int | None = None,
    **settings: Any,
) -> AugmentRate:
    """Rate of :class:`~vitaos.data.augment.pipeline.DeviceAugment` (flip, RandAugment, normalize, erase, mix) on uint8.

    Args:
        batch_size: images a call.
        img_size: their side in pixels.
        device: where the batches lie and are augmented.
        batches: calls that are timed, each with other positions.
        warmup: calls before.
        threads: torch's threads while measuring; None leaves them.
        settings: further keywords of DeviceAugment, such as ``channels_last=True``.
    """
    place = torch.device(device)
    images = torch.from_numpy(pieces(min(batch_size, 256), img_size)).permute(0, 3, 1, 2)
    images = images.repeat(-(-batch_size // len(images)), 1, 1, 1)[:batch_size].contiguous().to(place)
    targets = (torch.arange(batch_size) % NUM_CLASSES).to(place)
    transform = DeviceAugment(img_size=img_size, num_classes=NUM_CLASSES, seed=0, **settings)

    def run(first: int, count: int) -> None:
        for number in range(first, first + count):
            positions = torch.arange(batch_size) + number * batch_size
            transform(Batch(images, targets, positions), epoch=0, step=number)
        synchronize(place)

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        run(0, warmup)
        wall, processor = _timed(lambda: run(warmup, batches))
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    done = batches * batch_size
    return AugmentRate("device augmentation", str(place), used, done / wall, done / processor)


def measure_timm(*, img_size: int = 224, images: int = 256, crop: bool) -> AugmentRate:
    """Rate of timm's CPU transforms of the DeiT recipe, mixing left out, in this one process.

    Args:
        img_size: side of the result in pixels.
        images: how many are timed.
        crop: with the random resized crop from a decoded 500 px photograph, or from ready crops as the device
            augmentation has them.
    """
    first, color, finish = create_transform(
        img_size,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        separate=True,
    )
    posterize_to_black(color)
    if crop:
        sources = [_photograph(photo) for photo in load_sample_images().images]
    else:
        sources = [Image.fromarray(piece) for piece in pieces(min(images, 64), img_size)]
        first = first.transforms[1]  # the flip

    def run(count: int) -> None:
        for number in range(count):
            finish(color(first(sources[number % len(sources)])))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(16)
        wall, processor = _timed(lambda: run(images))
    finally:
        torch.set_num_threads(before)
    name = "timm with random resized crop" if crop else "timm after the crop"
    return AugmentRate(name, "cpu", 1, images / wall, images / processor)


def pieces(count: int, side: int) -> NDArray[np.uint8]:
    """(count, side, side, 3) places of the sample photographs, enlarged where these are too small."""
    random = np.random.default_rng(0)
    photos = []
    for photo in load_sample_images().images:
        grow = max(1.0, (side + 1) / min(photo.shape[:2]))
        size = (int(photo.shape[1] * grow) + 1, int(photo.shape[0] * grow) + 1)
        photos.append(np.asarray(Image.fromarray(photo).resize(size)))
    corners = random.random((count, 2))
    cut = []
    for number, (v, u) in enumerate(corners):
        photo = photos[number % len(photos)]
        y, x = int(v * (photo.shape[0] - side)), int(u * (photo.shape[1] - side))
        cut.append(photo[y : y + side, x : x + side])
    return np.stack(cut)


def _photograph(photo: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(photo)
    shrink = PHOTOGRAPH_SIDE / max(image.size)
    return image.resize((round(image.width * shrink), round(image.height * shrink)), Image.Resampling.BICUBIC)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall clock and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor
