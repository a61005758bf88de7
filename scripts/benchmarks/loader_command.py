"""How fast images arrive: ``python scripts/benchmark.py loader source=DIR [workers=[1,2]]``.

timm's full recipe on the CPU against FFCV files written from the same photographs. Prints a table; `out=FILE.json`
keeps the numbers with hardware and versions.
"""

from dataclasses import asdict, dataclass
from typing import Any

from scripts.benchmarks.record import write_record
from vitaos import cli
from vitaos.config import key
from vitaos.runtime.processes import DEVICES


@dataclass
class LoaderConfig:
    """Everything about a measurement of loaders; see measure_loader for each key."""

    source: str | None = key(None, "folder of class folders with photographs", is_path=True)
    cache: str = key("benchmarks/cache", "folder of the FFCV files written from them", is_path=True)
    workers: list[int] = key([1, 2], "numbers of workers to measure", low=0, high=1024)
    resolutions: list[int] = key([500, 400], "bounds of the longer side of what is written", low=0, high=2**16)
    modes: list[str] = key(["proportion", "jpg"], "modes of writing: jpg, raw, proportion")
    img_size: int = key(224, "side of the images in pixels", low=1, high=2**14)
    batch_size: int = key(64, "images in a batch", low=1, high=10**6)
    images: int = key(1000, "photographs used", low=1, high=10**7)
    rounds: int = key(3, "rounds in which the loaders take turns", low=1, high=10**6)
    device: str = key("auto", "auto: a GPU where there is one", choices=DEVICES)
    others: bool = key(False, "also FFCV's own Loader, torchvision, and Pillow without the recipe")
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_loader", schema=LoaderConfig, about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    if not config.source:
        raise ValueError("source=DIR is missing: a folder of class folders with photographs")
    from scripts.benchmarks.hardware import describe  # noqa: PLC0415 - seconds to import, which --help does not need
    from scripts.benchmarks.loader import measure_loader  # noqa: PLC0415 - needs FFCV, which --help does not
    from vitaos.runtime.world import choose_device  # noqa: PLC0415

    device = choose_device(config.device, 0)
    keywords = {key: value for key, value in asdict(config).items() if key != "out"} | {"device": device.type}
    rates = measure_loader(keywords.pop("source"), keywords.pop("cache"), **keywords)
    rows = [asdict(rate) for rate in rates]
    write_record(config.out, config=asdict(config), hardware=describe(device), rows=rows)
