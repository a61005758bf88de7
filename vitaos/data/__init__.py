"""Loading images: exactly reproducible, resumable at any step, the same for any number of processes and workers.

:func:`build_loaders` is the entry; ``order.py`` decides who sees which image when; ``crops.py`` which part of it.
"""

from vitaos.data.build import (
    EvalLoader,
    Loaders,
    ReadSettings,
    TrainLoader,
    build_eval_loader,
    build_loaders,
    default_workers,
)
from vitaos.data.splits import DataSource

__all__ = [
    "DataSource",
    "EvalLoader",
    "Loaders",
    "ReadSettings",
    "TrainLoader",
    "build_eval_loader",
    "build_loaders",
    "default_workers",
]
