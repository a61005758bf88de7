"""The records of a beton, written by FFCV's own writer under a watch: a worker that dies is an error, never a wait.

FFCV's ``DatasetWriter`` gives the file format (header, shared metadata, pages, table of allocations). Its own loop
waits for ever when a worker dies and cannot leave a record out, so the processes are started and watched here.
"""

import hashlib
import multiprocessing
import os
import queue
import signal
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.memory_allocator import MemoryAllocator
from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter
from numpy.typing import NDArray

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.ffcv.encode import encode
from vitaos.data.ffcv.options import Progress, WriteOptions
from vitaos.data.folder.files import ImageFolder

CHUNK: Final = 32
"""Images handed to a worker at a time."""

LARGEST_PAGE: Final = 1 << 30
UNBOUNDED_RECORD: Final = 1 << 26
"""Room for one record when no bound is given: 22 megapixels raw, far more as JPEG."""

WATCH_SECONDS: Final = 0.5
ORPHAN_SECONDS: Final = 5.0


class _Done(NamedTuple):
    """Some images are done; the reasons of those that did not decode."""

    images: int
    reasons: dict[int, str]


class _Finished(NamedTuple):
    """A worker has finished; where its records are (index, address, size), and a CRC-32 of each by its index."""

    allocations: list[tuple[int, int, int]]
    checksums: dict[int, int]


class _Failed(NamedTuple):
    """A worker has failed for a reason other than an image; what the operating system said, where it was that."""

    trace: str
    errno: int | None
    strerror: str | None


class _Job(NamedTuple):
    """What all workers share."""

    folder: ImageFolder
    options: WriteOptions
    allocator: Any


_Send = Callable[[_Done | _Finished | _Failed], None]
"""Takes a worker's message."""


def _page_size(options: WriteOptions) -> int:
    """Bytes of a page, which must hold the largest record: FFCV's 8 MiB for usual sizes, less for tiny images."""
    needed = 3 * options.max_resolution**2 if options.max_resolution else UNBOUNDED_RECORD
    size = MIN_PAGE_SIZE if needed <= MIN_PAGE_SIZE // 16 else 4 * MIN_PAGE_SIZE
    while size < needed and size < LARGEST_PAGE:
        size *= 2
    return size


def _work(chunks: Callable[[], list[int] | None], send: _Send, metadata: NDArray[Any], job: _Job) -> None:
    """Write the images of chunks until there are no more."""
    image_column, label_column = metadata.dtype.names or ("", "")
    images, labels = metadata[image_column], metadata[label_column]
    folder, options, allocator = job
    checksums: dict[int, int] = {}
    with allocator:
        while (chunk := chunks()) is not None:
            reasons: dict[int, str] = {}
            for index in chunk:
                try:
                    record = encode(folder.path(index), index, options)
                    if record.content.nbytes > allocator.page_size:
                        raise CorruptImageError(
                            f"its record of {record.content.nbytes} bytes is too large: set max_resolution"
                        )
                except CorruptImageError as error:
                    reasons[index] = str(error)
                    continue
                allocator.set_current_sample(index)
                place = images[index : index + 1]
                place["mode"], place["height"], place["width"] = record.mode, record.height, record.width
                place["data_ptr"], storage = allocator.malloc(record.content.nbytes)
                storage[:] = record.content
                labels[index] = folder.targets[index]
                described = f"{record.mode} {record.height} {record.width} {labels[index]} "
                checksums[index] = zlib.crc32(record.content.data, zlib.crc32(described.encode()))
            send(_Done(len(chunk), reasons))
    send(_Finished(allocator.allocations, checksums))


def _work_in_process(tasks: Any, messages: Any, shared: Any, metadata_type: np.dtype[Any], job: _Job) -> None:
    """A worker process; it ends by itself when the one that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    parent = os.getppid()

    def chunks() -> list[int] | None:
        while os.getppid() == parent:
            try:
                chunk: list[int] | None = tasks.get(timeout=ORPHAN_SECONDS)
            except queue.Empty:
                continue
            return chunk
        return None

    try:
        _work(chunks, messages.put, np.frombuffer(shared.buf, dtype=metadata_type), job)
    except BaseException as error:  # whatever it was, the parent must know
        said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        messages.put(_Failed(traceback.format_exc(), *said))


@contextmanager
def _no_opencv_threads() -> Iterator[None]:
    """End OpenCV's threads, where this process has any: a fork has them not, and would wait for them for ever."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class RecordWriter(DatasetWriter):
    """Writes the records of a folder to a file in FFCV's format.

    Args:
        path: the file, to be replaced.
        folder: what to write; files that do not decode are left out.
        options: how images are stored.
        workers: processes; 0 writes in this process.

    Attributes:
        digest: of what :meth:`write` has written, record by record in their order: which page a record lies in depends
            on how fast each worker is, and a file that is written again is the same data.
    """

    def __init__(self, path: Path, folder: ImageFolder, options: WriteOptions, workers: int) -> None:
        fields = {"image": RGBImageField(), "label": IntField()}
        super().__init__(str(path), fields, page_size=_page_size(options), num_workers=max(1, workers))
        self._folder = folder
        self._options = options
        self._workers = workers
        self._reasons: dict[int, str] = {}
        self._allocations: list[tuple[int, int, int]] = []
        self._checksums: dict[int, int] = {}
        self.digest = ""
        self._done = 0
        self._finished = 0

    def write(self, on_progress: Progress) -> dict[int, str]:
        """Write everything; where no file decodes the beton stays unfinished.

        Returns:
            the reason for each file that did not decode, by its index in the folder.

        Raises:
            OSError: the disk is full, or cannot be written.
            ValueError: a worker died.
            RuntimeError: a worker failed otherwise.
        """
        self.num_samples = len(self._folder)
        self.prepare()
        self.metadata_sm.unlink()  # forks keep it, and it ends with the last of them, however they end
        try:
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            job = _Job(self._folder, self._options, allocator)
            chunks = [list(range(at, min(at + CHUNK, self.num_samples))) for at in range(0, self.num_samples, CHUNK)]
            if self._workers == 0:
                self._write_here(job, chunks, on_progress)
            else:
                self._write_in_processes(job, chunks, on_progress)
            if len(self._reasons) < self.num_samples:
                self._leave_out_unreadable()
                self.finalize(self._allocations)
            in_order = [self._checksums[index] for index in sorted(self._checksums)]
            self.digest = hashlib.sha256(np.array(in_order, dtype="<u4").tobytes()).hexdigest()
        finally:
            with suppress(BufferError):  # frames of an exception hold it; it goes with them
                self.metadata_sm.close()
        return self._reasons

    def _write_here(self, job: _Job, chunks: list[list[int]], on_progress: Progress) -> None:
        left = iter(chunks)
        metadata = np.frombuffer(self.metadata_sm.buf, dtype=self.metadata_type)
        _work(lambda: next(left, None), partial(self._receive, on_progress), metadata, job)

    def _write_in_processes(self, job: _Job, chunks: list[list[int]], on_progress: Progress) -> None:
        context = multiprocessing.get_context("fork")
        tasks, messages = context.Queue(), context.Queue()
        arguments = (tasks, messages, self.metadata_sm, self.metadata_type, job)
        workers = [context.Process(target=_work_in_process, args=arguments, daemon=True) for _ in range(self._workers)]
        with _no_opencv_threads():
            for worker in workers:
                worker.start()
        for chunk in [*chunks, *[None] * self._workers]:
            tasks.put(chunk)
        try:
            while self._finished < self._workers:
                try:
                    self._receive(on_progress, messages.get(timeout=WATCH_SECONDS))
                except queue.Empty:
                    _refuse_dead(workers)
        finally:
            tasks.cancel_join_thread()
            for worker in workers:
                if self._finished < self._workers:
                    worker.terminate()
                worker.join()

    def _receive(self, on_progress: Progress, message: _Done | _Finished | _Failed) -> None:
        if isinstance(message, _Done):
            self._done += message.images
            self._reasons.update(message.reasons)
            on_progress(self._done, self.num_samples, len(self._reasons))
        elif isinstance(message, _Finished):
            self._finished += 1
            self._allocations += message.allocations
            self._checksums.update(message.checksums)
        elif message.errno is not None:
            raise OSError(message.errno, message.strerror, self.fname)
        else:
            raise RuntimeError(f"a writing process failed:\n{message.trace}")

    def _leave_out_unreadable(self) -> None:
        """Close the gaps of unreadable files: the records that were written become 0, 1, 2, ... in order."""
        if not self._reasons:
            return
        kept = np.setdiff1d(np.arange(self.num_samples), np.array(list(self._reasons)))
        metadata = np.frombuffer(self.metadata_sm.buf, dtype=self.metadata_type)
        metadata[: len(kept)] = metadata[kept]
        metadata[len(kept) :] = np.zeros((), dtype=self.metadata_type)
        places = {int(index): place for place, index in enumerate(kept)}
        self._allocations = [(places[index], pointer, size) for index, pointer, size in self._allocations]
        self.header["num_samples"] = len(kept)


def _refuse_dead(workers: list[Any]) -> None:
    """Raise when a worker ended without a message (killed for memory, crashed in native code)."""
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise ValueError(
                f"a writing process died with exit code {worker.exitcode} "
                "(killed, perhaps for memory): lower workers or free memory, and write again"
            )
