"""The batch pool in a process of its own, so that decoding and the training loop do not share an interpreter.

Every thread that decodes takes Python's lock some microseconds an image. At thousands of images a second that starves
the one thread that launches kernels (``docs/data.md`` has the measurement). Here the decoding threads run in another
process, which makes batches in memory that both map; one thread of this process copies each into fresh (page-locked)
memory, without the lock. Two short messages a batch are all that is left for this interpreter to do.

What a batch holds follows from its request alone: the pixels are those of
:class:`~vitaos.data.ffcv.batch_pool.BatchPool`, bit for bit, which does the work there.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from vitaos.batch import Batch
from vitaos.data.batches import BatchRequest
from vitaos.data.corrupt_images import CorruptImages
from vitaos.data.ffcv.batch_pool import fresh_memory
from vitaos.data.ffcv.process_messages import Logged, Made, Order, PoolOptions, SharedBatches, Start

_CLOSE_SECONDS: Final = 5.0

# By import and not as ``-m``, so that messages are of the same classes on both sides. torch comes first because what
# prepares it on the null GPU imports modules of vitaos.
PROGRAM: Final = """
import sys
import torch
from multiprocessing.connection import Connection
from vitaos.data.ffcv.process_worker import serve
serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
"""


class LoaderProcessError(RuntimeError):
    """The process that makes the batches died."""


class ProcessPool:
    """Makes batches of a beton in another process; used like :class:`~vitaos.data.ffcv.batch_pool.BatchPool`.

    The process starts at once and gets ready while the caller goes on; what goes wrong there is raised where the first
    batch is consumed.

    Args:
        options: of the pool that works there.
        num_images: images of the beton.
        batch_size: most images in a batch.
        pin_memory: hand out page-locked memory.
        program: what the process runs.
    """

    def __init__(
        self, options: PoolOptions, num_images: int, *, batch_size: int, pin_memory: bool, program: str = PROGRAM
    ) -> None:
        self._options = options
        self._pin_memory = pin_memory
        self.bad = CorruptImages(num_images, options.on_bad, str(options.path))
        slots = options.prefetch + 1
        descriptor = os.memfd_create("vitaos-loader")
        try:
            self._shared = SharedBatches(descriptor, slots, batch_size, options.img_size)
            self._process, self._connection = _start_process(program, descriptor)
        finally:
            os.close(descriptor)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._ordered: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Batch | Exception] = queue.SimpleQueue()
        self._closed = False
        self._send(Start(options, batch_size, slots))
        self._receiver = threading.Thread(target=self._receive, name="vitaos-loader", daemon=True)
        self._receiver.start()

    def batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """The requested batches, in order.

        Raises:
            LoaderProcessError: the process died.
            Exception: what :meth:`BatchPool.batches` raises.
        """
        if self._closed:
            raise ValueError("this loader is closed")
        in_flight = 0
        try:
            for request in requests:
                self._order(request)
                in_flight += 1
                if in_flight > self._options.prefetch:
                    in_flight -= 1
                    yield self._next()
            while in_flight:
                in_flight -= 1
                yield self._next()
        finally:  # an iteration that was given up leaves nothing behind for the next one
            for _ in range(in_flight):
                self._take()

    def close(self) -> None:
        """End the process; batches not yet made are dropped."""
        if self._closed:
            return
        self._closed = True
        self._send(None)
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._receiver.join()
        self._connection.close()

    def _send(self, message: Start | Order | None) -> None:
        with contextlib.suppress(OSError):  # a broken pipe: the receiver tells what became of the process
            self._connection.send(message)

    def _order(self, request: BatchRequest) -> None:
        order = Order(self._free.get(), request)
        self._ordered.put(order)
        self._send(order)

    def _next(self) -> Batch:
        made = self._take()
        if isinstance(made, Exception):
            raise made
        return made

    def _take(self) -> Batch | Exception:
        made = self._made.get()
        if isinstance(made, LoaderProcessError):
            self._made.put(made)  # there is nothing else to come, for whoever asks
        return made

    def _receive(self) -> None:
        """Runs in a thread: what the process sends, until it ends."""
        try:
            while True:
                message: Made | Logged = self._connection.recv()
                if isinstance(message, Logged):
                    logging.getLogger(message.name).log(message.level, "%s", message.message)
                    continue
                self.bad.mark(message.bad)
                order = self._ordered.get()
                self._made.put(self._copy(order) if message.error is None else message.error)
                self._free.put(order.slot)
        except (EOFError, OSError):
            self._tell(self._death())
        except Exception as error:  # whatever else it was, the consumer must hear of it
            self._tell(LoaderProcessError(f"receiving a batch failed: {error}"))

    def _tell(self, error: LoaderProcessError) -> None:
        self._made.put(error)
        for _ in range(self._options.prefetch + 1):
            self._free.put(0)  # whoever waits for a slot goes on, and hears of it

    def _copy(self, order: Order) -> Batch:
        count = len(order.request.indices)
        shared = self._shared.slot(order.slot, count)
        memory = fresh_memory(count, self._options.img_size, pin_memory=self._pin_memory)
        np.copyto(memory.views, shared.views)
        np.copyto(memory.targets, shared.targets)
        return memory.batch(order.request)

    def _death(self) -> LoaderProcessError:
        try:
            status = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return LoaderProcessError("the process that makes the batches no longer answers")
        reason = " (killed, perhaps for want of memory)" if status == -signal.SIGKILL else "; its last words are above"
        return LoaderProcessError(f"the process that makes the batches ended with status {status}{reason}")


def _start_process(program: str, descriptor: int) -> tuple["subprocess.Popen[bytes]", Connection]:
    """A new interpreter and the connection to it. Not a fork: neither CUDA nor threads survive one."""
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).resolve().parents[3])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno()), str(descriptor)],
            pass_fds=(theirs.fileno(), descriptor),
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    return process, Connection(ours.detach())
