"""Augmentation alone: ``python scripts/benchmark.py augment [device=cuda] [batch_size=1024]``.

The batched augmentation on the device against timm's transforms of the same recipe in one process on the CPU.
Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benchmarks.hardware import describe
from scripts.benchmarks.record import write_record
from vitaos import cli
from vitaos.runtime.world import DEVICES, choose_device


@dataclass
class AugmentConfig:
    """Everything about a measurement of augmentation.

    ``batch_size`` and ``batches`` are the device's, ``images`` is how many timm transforms.
    """

    batch_size: int = field(default=256, metadata={"low": 1})
    batches: int = field(default=5, metadata={"low": 1})
    images: int = field(default=256, metadata={"low": 1})
    img_size: int = field(default=224, metadata={"low": 1})
    threads: int | None = field(default=None, metadata={"low": 1})
    channels_last: bool = False
    device: str = field(default="auto", metadata={"choices": DEVICES})
    out: str | None = None


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_augment", schema=AugmentConfig, about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    from scripts.benchmarks.augment import measure_augment, measure_timm  # noqa: PLC0415 - slow, and not for --help

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
