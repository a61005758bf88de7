"""How much decoding slows the thread that trains: ``python scripts/benchmark.py contention beton=FILE workers=[6]``.

400 small operations of torch alone, and beside a loader whose threads sleep `decode_ms` in place of decoding: what
is left of the loader is the interpreter's work, so that few idle cores show what happens beside many. Threads of the
training process and of a process of their own take turns. Prints a table; `out=FILE.json` keeps the numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any

from vitaos import cli
from vitaos.config import key


@dataclass
class ContentionConfig:
    """Everything about a measurement of contention."""

    beton: str | None = key(None, "an FFCV file, of which the index alone is used", is_path=True)
    workers: list[int] = key([6, 12, 16], "numbers of decoding threads", low=1, high=1024)
    decode_ms: float = key(0.6, "sleep in place of a decoding", low=0, high=1000)
    img_size: int = key(64, "side of the images in pixels", low=1, high=2**14)
    batch_size: int = key(256, "images in a batch", low=1, high=10**6)
    seconds: float = key(5.0, "length of a measurement", above=0, high=10**4)
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_contention", schema=ContentionConfig, about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    if not config.beton:
        raise ValueError("beton=FILE is missing: an FFCV file")
    from scripts.benchmarks.hardware import describe  # noqa: PLC0415 - seconds to import, which --help does not need
    from scripts.benchmarks.record import write_record  # noqa: PLC0415
    from scripts.benchmarks.sleeping_loader import measure_sleeping  # noqa: PLC0415
    from vitaos.runtime.world import choose_device  # noqa: PLC0415

    rows = []
    print("workers  decoding in     alone    beside  factor  waits   images/s")
    for workers in config.workers:
        for where in ("threads", "process"):
            found = measure_sleeping(
                config.beton, workers, decode_ms=config.decode_ms, img_size=config.img_size,
                batch_size=config.batch_size, seconds=config.seconds, own_process=where == "process",
            )  # fmt: skip
            print(
                f"{workers:7d}  {where:11s} {found.alone_ms:6.2f} ms {found.beside_ms:6.2f} ms  x{found.factor:5.2f} "
                f"{found.waits_beside:6.1f} "
                f"{found.images_per_s:10,.0f}",
                flush=True,
            )
            rows.append({"workers": workers, "decoding in": where} | found._asdict())
    write_record(config.out, config=asdict(config), hardware=describe(choose_device("cpu", 0)), rows=rows)
