"""Plans of batches to come, made in a thread while the device works on the batches before them."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Plan = TypeVar("Plan")
_MOST_KEPT: Final = 64  # plans of batches that were announced and never asked for: an epoch that was left


class PlanAhead(Generic[Plan]):
    """Makes plans before they are asked for; a plan follows from its epoch and positions, so that it is the same.

    Args:
        make: takes the epoch and the positions of a batch; is called in a thread.
    """

    def __init__(self, make: Callable[[int, NDArray[np.int64]], Plan]) -> None:
        self._make = make
        self._plans: OrderedDict[tuple[int, bytes], Future[Plan]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None

    def announce(self, epoch: int, positions: NDArray[np.int64]) -> None:
        """A batch will be asked for: begin with its plan."""
        if self._thread is None:  # not before it is needed: worker processes may be forked first
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="vitaos-plan")
        self._plans[epoch, positions.tobytes()] = self._thread.submit(self._make, epoch, positions)
        if len(self._plans) > _MOST_KEPT:
            self._plans.popitem(last=False)

    def get(self, epoch: int, positions: NDArray[np.int64]) -> Plan:
        """The plan of a batch, made now where the batch was not announced.

        Raises:
            Exception: what making it raised.
        """
        announced = self._plans.pop((epoch, positions.tobytes()), None)
        return self._make(epoch, positions) if announced is None else announced.result()
