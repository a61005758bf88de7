"""Write class folders of images into an FFCV file: ``python scripts/write_ffcv.py source=DIR out=FILE.beton``."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vitaos import cli
from vitaos.config import key

ABOUT: Final = """Images in class folders into one FFCV file and its manifest (FILE.json: classes, options, checksums).

  python scripts/write_ffcv.py source=/data/imagenet/train out=/fast/train.beton
  python scripts/write_ffcv.py source=DIR out=FILE.beton mode=proportion max_resolution=500   # FFCV's published setting
  python scripts/write_ffcv.py verify=FILE.beton                                              # check every byte
"""
LINE_SECONDS: Final = 5.0


@dataclass
class WriteConfig:
    """Keys of the command; the options are those of :class:`vitaos.data.ffcv.options.WriteOptions`."""

    source: str | None = key(None, "folder of class folders of images", is_path=True)
    out: str | None = key(None, "the file to write, FILE.beton", is_path=True)
    mode: str = key(
        "jpg",
        "images as JPEG, as raw pixels, or `fraction` of them as JPEG and the others raw",
        choices=("jpg", "raw", "proportion"),
    )
    max_resolution: int = key(500, "bound of the longer side in pixels; 0: none", low=0, high=2**16)
    quality: int = key(90, "of the JPEGs", low=1, high=100)
    fraction: float = key(0.5, "share of JPEGs for mode=proportion", low=0, high=1)
    workers: int | None = key(None, "processes; 0: the command's own; null: all cores", low=0, high=1024)
    on_bad: str = key(
        "fail",
        "unreadable files are listed; fail: then nothing is written, skip: they are left out",
        choices=("fail", "skip"),
    )
    verify: str | None = key(None, "a written file, of which every byte is checked", is_path=True)


COMMAND = cli.Command("write_ffcv", WriteConfig, ABOUT)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before what follows is imported

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitaos.data import default_workers
from vitaos.data.ffcv.options import WriteOptions
from vitaos.data.ffcv.verify import verify_beton
from vitaos.data.ffcv.writer import write_beton


class Display:
    """How far it is: a bar with rate and time left on a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = self._said = 0.0
        self._before = 0
        self._bar: Progress | None = None

    def show(self, done: int, total: int, unreadable: int = 0) -> None:
        """Tell the progress; ``unreadable`` files are counted beside it."""
        now = time.monotonic()
        if not self._start:  # the clock starts with the first images: what came before was starting up
            self._start, self._said, self._before = now, now, done
        rate = (done - self._before) / max(now - self._start, 1e-6)
        bad = f", {unreadable} unreadable" if unreadable else ""
        if sys.stdout.isatty():
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                self._bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console())
                self._bar.add_task(self._what, total=total)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, description=f"{self._what} {rate:.0f}/s{bad}")
        elif done == total or now - self._said >= LINE_SECONDS:
            self._said = now
            speed = f", {rate:.0f}/s, {(total - done) / rate:.0f} s left" if rate else ""
            print(f"{self._what}: {done}/{total}{bad}{speed}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def shown(what: str) -> Iterator[Display]:
    """A display that is closed whatever happens."""
    display = Display(what)
    try:
        yield display
    finally:
        display.close()


def main(config: WriteConfig) -> int:
    """Write or verify one file."""
    workers = default_workers() if config.workers is None else config.workers
    if config.verify is not None:
        with shown("verifying") as display:
            count = verify_beton(config.verify, threads=max(1, workers), on_progress=display.show)
        print(f"{config.verify}: {count} images, every byte as it was written")
        return 0
    if config.source is None or config.out is None:
        raise ValueError("give source=DIR and out=FILE.beton, or verify=FILE.beton (--help shows every key)")
    options = WriteOptions(config.mode, config.max_resolution, config.quality, config.fraction)  # type: ignore[arg-type]  # its choices are checked
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that unfinished files are removed
    with shown("writing") as display:
        report = write_beton(
            config.source,
            config.out,
            options,
            workers=workers,
            on_bad=config.on_bad,  # type: ignore[arg-type]  # its choices are checked
            on_progress=display.show,
        )
    left_out = f", {len(report.unreadable)} left out" if report.unreadable else ""
    if Path(f"{config.out}.unreadable.txt").is_file():
        left_out += f" ({config.out}.unreadable.txt)"
    if report.already_there:
        same = f"{report.num_images} images from {config.source}, same options"
        print(f"{config.out} is finished already: {same}{left_out}")
    else:
        print(f"{config.out}: {report.num_images} images{left_out}")
    return 0


if __name__ == "__main__":
    COMMAND.run(main)
