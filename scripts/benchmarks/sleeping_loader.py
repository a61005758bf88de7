"""The real loader with a sleep in place of its decoding and resizing, in threads or in a process of its own."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from scripts.benchmarks.contention import Contention, measure_contention
from vitaos.data.crops import CropSettings
from vitaos.data.ffcv import batch_pool
from vitaos.data.ffcv.loader import FfcvTrainLoader
from vitaos.data.ffcv.process_messages import PoolOptions
from vitaos.data.ffcv.process_pool import PROGRAM, ProcessPool
from vitaos.data.ffcv.reader import Beton, open_beton
from vitaos.data.order import TrainOrder

_ROOT: Final = Path(__file__).resolve().parents[2]


def sleep_for_decoding(seconds: float) -> None:
    """From now on, in this process, decoding an image is a sleep and resizing it is nothing."""
    nothing = np.zeros((64, 64, 3), np.uint8)

    def image(_: Beton, index: int) -> Any:
        del index
        time.sleep(seconds)
        return nothing

    Beton.image = image  # type: ignore[method-assign, assignment]
    batch_pool.crop_and_resize = lambda *_: None


def measure_sleeping(
    path: str | Path, workers: int, *, decode_ms: float, img_size: int, batch_size: int, seconds: float,
    own_process: bool,
) -> Contention:  # fmt: skip
    """The contention of a loader over a beton that sleeps; see ContentionConfig. From then on this process's do."""
    torch.set_num_threads(1)
    sleep_for_decoding(decode_ms / 1000)
    beton = open_beton(path)
    order = TrainOrder(len(beton), batch_size, 1, 0, 1, seed=0, repeats=1)
    loader = FfcvTrainLoader(beton, order, CropSettings(), img_size=img_size, workers=workers)
    if own_process:
        loader.close()
        options = PoolOptions(beton.path, False, img_size, "bicubic", workers, 2, "skip", CropSettings(), order.seed)
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
            "from scripts.benchmarks.sleeping_loader import sleep_for_decoding\n"
            f"sleep_for_decoding({decode_ms / 1000!r})\n"
        )
        loader._pool = ProcessPool(
            options, len(beton), batch_size=batch_size, pin_memory=False, program=program + PROGRAM
        )
    with closing(loader):
        return measure_contention(loader, seconds=seconds)
