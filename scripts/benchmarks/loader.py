"""How fast images arrive: timm's full CPU recipe against FFCV files, on the same photographs in one run.

Every variant is measured in every round, one after the other, so that whatever else the machine does falls on all of
them; the medians over the rounds are reported. Beside images per second stands the processor time for an image, which
other programs on the machine disturb less: its inverse is the rate of one core that does nothing else.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from vitaos.batch import Batch
from vitaos.data.augment.pipeline import DeviceAugment
from vitaos.data.augment.settings import AugmentSettings, MixSettings
from vitaos.data.crops import CropSettings
from vitaos.data.ffcv.loader import FfcvTrainLoader
from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.reader import open_beton
from vitaos.data.ffcv.writer import write_beton
from vitaos.data.folder.loader import FolderTrainLoader
from vitaos.data.folder.scan import scan_folder
from vitaos.data.order import TrainOrder

RANDAUGMENT: Final = "rand-m9-mstd0.5-inc1"
CROP: Final = CropSettings()
RECIPE: Final = AugmentSettings(randaugment=RANDAUGMENT)
BASELINE: Final = "timm on Pillow, full recipe"


@dataclass(frozen=True)
class Variant:
    """One way to load: its name, its processes or threads, and how to make the loader (with that many workers)."""

    name: str
    workers: int
    make: Callable[[int], Any]
    transform: Callable[..., object] | None = None


@dataclass(frozen=True)
class Rate:
    """Medians of one variant.

    Attributes:
        name, workers: the variant.
        images_per_s: by the clock.
        cpu_ms_per_image: processor time of this process and its workers.
        times_recipe: processor time of timm's full recipe (same number of workers) over this one's.
    """

    name: str
    workers: int
    images_per_s: float
    cpu_ms_per_image: float
    times_recipe: float


def measure_loader(
    source: str | Path,
    cache: str | Path,
    *,
    workers: Sequence[int] = (1, 2),
    resolutions: Sequence[int] = (500, 400),
    modes: Sequence[str] = ("proportion", "jpg"),
    img_size: int = 224,
    batch_size: int = 64,
    images: int = 1000,
    rounds: int = 3,
    device: str = "cpu",
    others: bool = False,
    log: Callable[[str], None] = print,
) -> list[Rate]:
    """Measure every variant.

    Args:
        source: class folders of photographs.
        cache: where the FFCV files are written (kept, and used again).
        workers: worker processes of timm, and threads of the FFCV loader.
        resolutions: bound of the longer side of the FFCV files, one set of files for each.
        modes: how their images are stored: ``jpg``, ``raw``, ``proportion`` (half of each); the augmentation runs after
            the first of them.
        img_size: side of the images.
        batch_size: of every variant; at most half the number of photographs.
        images: loaded by a variant in each round.
        rounds: how often; medians are reported.
        device: where the augmentation runs.
        others: also FFCV's own Loader, torchvision and Pillow without the recipe.
        log: called with each line of the table.
    """
    betons = {
        (resolution, mode): _beton(Path(source), Path(cache), resolution, mode)
        for resolution in resolutions
        for mode in modes
    }
    augment = DeviceAugment(
        AugmentSettings(randaugment=RANDAUGMENT), MixSettings(0.0, 0.0), img_size=img_size, num_classes=1000, seed=0
    )
    folder = scan_folder(source)
    order = TrainOrder(len(folder), min(batch_size, len(folder) // 2))
    variants: list[Variant] = []
    for count in workers:
        variants.append(Variant(BASELINE, count, partial(_timm_loader, folder, order, img_size)))
        for (resolution, mode), path in betons.items():
            name = f"FFCV {resolution} px {mode}"
            for resize in ("bicubic", "area"):
                make = partial(_ffcv_loader, path, order, img_size, resize)
                variants.append(Variant(f"{name}, decode + crop ({resize})", count, make))
            if mode != modes[0]:
                continue  # the augmentation costs the same after every file
            make = partial(_ffcv_loader, path, order, img_size, "bicubic")
            variants.append(Variant(f"{name}, bicubic + device augmentation ({device})", count, make, augment))
        if others:
            variants += _of_others(folder, betons, order, img_size, count)
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for variant in variants:
            samples.setdefault((variant.name, variant.workers), []).append(_measure(variant, images, device))
    rates = _medians(samples)
    for line in table(rates):
        log(line)
    return rates


def table(rates: Iterable[Rate]) -> list[str]:
    """The rates as lines of a Markdown table."""
    lines = [
        "| loading | workers | images/s | CPU ms/image | images/s of a whole core | x recipe |",
        "|---|---|---|---|---|---|",
    ]
    for rate in rates:
        core = 1000 / rate.cpu_ms_per_image
        lines.append(
            f"| {rate.name} | {rate.workers} | {rate.images_per_s:.0f} | {rate.cpu_ms_per_image:.2f} | {core:.0f} "
            f"| {rate.times_recipe:.1f} |"
        )
    return lines


def _beton(source: Path, cache: Path, resolution: int, mode: str) -> Path:
    path = cache / f"{mode}-{resolution}.beton"
    write_beton(source, path, WriteOptions(mode, resolution))  # type: ignore[arg-type]  # checked there
    return path


def _timm_loader(folder: Any, order: TrainOrder, img_size: int, workers: int) -> FolderTrainLoader:
    return FolderTrainLoader(folder, order, CROP, img_size=img_size, timm=RECIPE, workers=workers)


def _ffcv_loader(path: Path, order: TrainOrder, img_size: int, resize: Any, workers: int) -> FfcvTrainLoader:
    return FfcvTrainLoader(open_beton(path), order, CROP, img_size=img_size, resize=resize, workers=workers)


def _of_others(
    folder: Any, betons: dict[tuple[int, str], Path], order: TrainOrder, img_size: int, workers: int
) -> list[Variant]:
    """Decode + crop + flip by others; made here, where compiling is not timed."""
    from scripts.benchmarks.other_loaders import FfcvOwnLoader, TorchvisionLoader  # noqa: PLC0415 - torchvision

    sizes = {"batch_size": order.batch_size, "img_size": img_size, "workers": workers}
    found: dict[str, Any] = {
        f"FFCV's own Loader, {resolution} px {mode} (area)": FfcvOwnLoader(path, **sizes)
        for (resolution, mode), path in betons.items()
    }
    found["torchvision, decode + crop"] = TorchvisionLoader(folder.root, **sizes)
    pillow = partial(FolderTrainLoader, folder, order, CROP, img_size=img_size)
    return [
        *(Variant(name, workers, partial(_made, loader)) for name, loader in found.items()),
        Variant("Pillow, decode + crop (bicubic)", workers, lambda count: pillow(workers=count)),
    ]


def _made(loader: Any, _workers: int) -> Any:
    return loader


def _measure(variant: Variant, images: int, device: str) -> tuple[float, float]:
    """(seconds, processor seconds) for an image. The clock starts after the first batch, when all workers run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    processor = _processor_seconds()
    loader = variant.make(variant.workers)
    made, timed, start = 0, 0, 0.0
    try:
        # Whole epochs: what workers prepare ahead is all used, so the processor time belongs to the counted images.
        for epoch in range(-(-images // loader.images_per_epoch)):
            for batch in loader.epoch(epoch):
                if made == 0:
                    start = time.perf_counter()
                else:
                    timed += len(batch.targets)
                _use(variant, batch, made, device)
                made += len(batch.targets)
        seconds = time.perf_counter() - start
    finally:
        loader.close()
        torch.set_num_threads(threads)
    return seconds / timed, (_processor_seconds() - processor) / made


def _use(variant: Variant, batch: Batch, step: int, device: str) -> None:
    if variant.transform is not None:
        variant.transform(batch.on(torch.device(device)), epoch=0, step=step)


def _processor_seconds() -> float:
    """Of this process and of its workers that have ended."""
    spent = 0.0
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(whose)
        spent += usage.ru_utime + usage.ru_stime
    return spent


def _medians(samples: dict[tuple[str, int], list[tuple[float, float]]]) -> list[Rate]:
    medians = {
        key: (statistics.median(wall for wall, _ in taken), statistics.median(spent for _, spent in taken))
        for key, taken in samples.items()
    }
    return [
        Rate(name, workers, 1 / wall, 1000 * spent, medians[BASELINE, workers][1] / spent)
        for (name, workers), (wall, spent) in medians.items()
    ]
