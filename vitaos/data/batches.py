"""Requests for batches: everything that a batch of either loader depends on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaos.data.order import TrainOrder


class BatchRequest(NamedTuple):
    """One batch to make.

    Attributes:
        epoch: 0-based epoch; None in evaluation.
        positions: (B,) places in the epoch's global order; in evaluation the dataset indices.
        indices: (B,) images of the dataset.
    """

    epoch: int | None
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]


Announce = Callable[[int, NDArray[np.int64]], None]
"""Told the epoch and the positions of a training batch that will come."""


def training_requests(
    order: TrainOrder, epoch: int, start_step: int, announce: Announce | None = None
) -> Iterator[BatchRequest]:
    """The micro-batches of an epoch from a global step on, each announced when it is asked for."""
    for micro in order.micro_batches(epoch, start_step):
        if announce is not None:
            announce(epoch, micro.positions)
        yield BatchRequest(epoch, micro.positions, micro.indices)


def evaluation_requests(indices_N: NDArray[np.int64], batch_size: int) -> Iterator[BatchRequest]:
    """The images of these indices in batches of ``batch_size``, the last one perhaps smaller."""
    for start in range(0, len(indices_N), batch_size):
        share_B = indices_N[start : start + batch_size]
        yield BatchRequest(None, share_B, share_B)
