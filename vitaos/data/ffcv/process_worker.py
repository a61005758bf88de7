"""The process that makes batches for a training process (:mod:`process_pool`): its life, from start to end."""

import logging
import os
import pickle
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

import torch

from vitaos.data.ffcv.batch_pool import BatchInFlight, BatchPool
from vitaos.data.ffcv.process_messages import Logged, Made, Order, SharedBatches, Start
from vitaos.data.ffcv.reader import open_beton
from vitaos.runtime.processes import ignore_requests_to_stop

_ORPHAN_SECONDS: Final = 5.0

_Send = Callable[[Made | Logged], None]
_InFlight = queue.SimpleQueue[BatchInFlight | Exception | None]


class _SendLog(logging.Handler):
    """Sends log records to the process that waits for the batches."""

    def __init__(self, send: _Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Logged(record.name, record.levelno, record.getMessage()))


def serve(connection: Connection, descriptor: int) -> None:
    """Make the batches that are ordered over a connection in the memory of a file, until no more will come."""
    ignore_requests_to_stop()
    torch.set_num_threads(1)
    lock = threading.Lock()

    def send(message: Made | Logged) -> None:
        with lock:
            connection.send(message)

    logging.getLogger("vitaos").addHandler(_SendLog(send))
    start: Start = connection.recv()
    options = start.options
    shared = SharedBatches(descriptor, start.slots, start.batch_size, options.img_size)
    os.close(descriptor)
    pool = _pool(start)
    in_flight: _InFlight = queue.SimpleQueue()
    answering = threading.Thread(target=_answer, args=(in_flight, pool, send), daemon=True)
    answering.start()
    parent = os.getppid()
    while (order := _next_order(connection, parent)) is not None:
        try:
            if isinstance(pool, Exception):
                raise pool
            in_flight.put(pool.start(order.request, shared.slot(order.slot, len(order.request.indices))))
        except Exception as error:
            in_flight.put(error)
    in_flight.put(None)
    if isinstance(pool, BatchPool):
        pool.close()
    answering.join()


def _pool(start: Start) -> BatchPool | Exception:
    """The pool, or why there is none: that is told when a batch is asked for."""
    options = start.options
    try:
        return BatchPool(
            open_beton(options.path, in_memory=options.in_memory), img_size=options.img_size, resize=options.resize,
            workers=options.workers, prefetch=options.prefetch, pin_memory=False, on_bad=options.on_bad,
            crop=options.crop, seed=options.seed,
        )  # fmt: skip
    except Exception as error:
        return error


def _next_order(connection: Connection, parent: int) -> Order | None:
    """The next order; None when there will be no more, also where the parent is gone without a word."""
    try:
        while not connection.poll(_ORPHAN_SECONDS):
            if os.getppid() != parent:
                return None
        order: Order | None = connection.recv()
    except (EOFError, OSError):
        return None
    return order


def _answer(in_flight: _InFlight, pool: BatchPool | Exception, send: _Send) -> None:
    """Runs in a thread: tell of every batch as it is made, in order."""
    try:
        while (batch := in_flight.get()) is not None:
            error: Exception | None = None
            try:
                if isinstance(batch, Exception):
                    raise batch
                batch.wait()
            except Exception as caught:
                error = caught
            bad = pool.bad.indices if isinstance(pool, BatchPool) else []
            try:
                send(Made(error, bad))
            except (pickle.PicklingError, TypeError, AttributeError):  # an error that cannot travel
                send(Made(RuntimeError(f"{type(error).__name__}: {error}"), bad))
    except OSError:
        return  # nobody listens any more
