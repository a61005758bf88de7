"""How fast images arrive: ``python scripts/benchmark.py loader source=DIR [workers=[1,2]]``.

timm's full recipe on the CPU against FFCV files written from the same photographs. Prints a table; `out=FILE.json`
keeps the numbers with hardware and versions.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benchmarks.hardware import describe
from scripts.benchmarks.record import write_record
from vitaos import cli
from vitaos.runtime.world import DEVICES, choose_device


@dataclass
class LoaderConfig:
    """Everything about a measurement of loaders; see measure_loader for each key."""

    source: str | None = None
    cache: str = "benchmarks/cache"
    workers: list[int] = field(default_factory=lambda: [1, 2])
    resolutions: list[int] = field(default_factory=lambda: [500, 400])
    modes: list[str] = field(default_factory=lambda: ["proportion", "jpg"])
    img_size: int = field(default=224, metadata={"low": 1})
    batch_size: int = field(default=64, metadata={"low": 1})
    images: int = field(default=1000, metadata={"low": 1})
    rounds: int = field(default=3, metadata={"low": 1})
    device: str = field(default="auto", metadata={"choices": DEVICES})
    out: str | None = None


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_loader", schema=LoaderConfig, about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    if not config.source:
        raise ValueError("source=DIR is missing: a folder of class folders with photographs")
    from scripts.benchmarks.loader import measure_loader  # noqa: PLC0415 - needs FFCV, which --help does not

    device = choose_device(config.device, 0)
    keywords = {key: value for key, value in asdict(config).items() if key != "out"} | {"device": device.type}
    rates = measure_loader(keywords.pop("source"), keywords.pop("cache"), **keywords)
    rows = [asdict(rate) for rate in rates]
    write_record(config.out, config=asdict(config), hardware=describe(device), rows=rows)
