"""Augmentation alone: ``python scripts/benchmark.py augment [device=cuda] [batch_size=1024]``.

The batched augmentation on the device against timm's transforms of the same recipe in one process on the CPU.
Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

from dataclasses import asdict, dataclass
from typing import Any

from scripts.benchmarks.record import write_record
from vitaos import cli
from vitaos.config import key
from vitaos.runtime.processes import DEVICES


@dataclass
class AugmentConfig:
    """Everything about a measurement of augmentation.

    ``batch_size`` and ``batches`` are the device's, ``images`` is how many timm transforms.
    """

    batch_size: int = key(256, "images of a batch on the device", low=1, high=10**6)
    batches: int = key(5, "batches on the device", low=1, high=10**6)
    images: int = key(256, "images that timm transforms", low=1, high=10**6)
    img_size: int = key(224, "side of the images in pixels", low=1, high=2**14)
    threads: int | None = key(None, "threads of torch; null: its own choice", low=1, high=1024)
    channels_last: bool = key(False, "channels-last memory order")
    device: str = key("auto", "auto: a GPU where there is one", choices=DEVICES)
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_augment", schema=AugmentConfig, about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    from scripts.benchmarks.augment import measure_augment, measure_timm  # noqa: PLC0415 - slow, and not for --help
    from scripts.benchmarks.hardware import describe  # noqa: PLC0415
    from vitaos.runtime.world import choose_device  # noqa: PLC0415

    device = choose_device(config.device, 0)
    rates = [
        measure_augment(
            batch_size=config.batch_size,
            img_size=config.img_size,
            device=device,
            batches=config.batches,
            threads=config.threads,
            channels_last=config.channels_last,
        ),
        measure_timm(img_size=config.img_size, images=config.images, crop=False),
        measure_timm(img_size=config.img_size, images=config.images, crop=True),
    ]
    print("| augmentation | device | threads | images/s | images/s of processor time |\n|---|---|---|---|---|")
    for rate in rates:
        print(
            f"| {rate.name} | {rate.device} | {rate.threads} | {rate.images_per_s:.1f} | {rate.images_per_cpu_s:.1f} |"
        )
    rows = [asdict(rate) for rate in rates]
    write_record(config.out, config=asdict(config), hardware=describe(device), rows=rows)
