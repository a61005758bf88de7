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


def measure_sleeping(config: Any, workers: int, *, own_process: bool) -> Contention:
    """The contention of a loader over `config.beton` that sleeps; see ContentionConfig."""
    torch.set_num_threads(1)
    seconds = config.decode_ms / 1000
    sleep_for_decoding(seconds)
    beton = open_beton(config.beton)
    order = TrainOrder(len(beton), config.batch_size, 1, 0, 1, seed=0, repeats=1)
    loader = FfcvTrainLoader(beton, order, CropSettings(), img_size=config.img_size, workers=workers)
    if own_process:
        loader.close()
        options = PoolOptions(
            beton.path, False, config.img_size, "bicubic", workers, 2, "skip", CropSettings(), order.seed
        )
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
            f"from scripts.benchmarks.sleeping_loader import sleep_for_decoding\nsleep_for_decoding({seconds!r})\n"
        )
        loader._pool = ProcessPool(
            options, len(beton), batch_size=config.batch_size, pin_memory=False, program=program + PROGRAM
        )
    with closing(loader):
        return measure_contention(loader, seconds=config.seconds)
