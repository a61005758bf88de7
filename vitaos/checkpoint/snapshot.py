"""Copies of a training state that the loop may go on changing: all that a save costs the loop."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vitaos.checkpoint.pinned import pinned_like

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Snapshot:
    """A reusable copy of a state on the CPU.

    Buffers are kept between copies of states of one layout, page-locked where the source is on a CUDA device. Copies
    from a CUDA device are only enqueued: they run on the current stream before whatever the loop enqueues next, so the
    loop need not wait; :meth:`wait` (called by the writer) does.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._layout: dict[str, tuple[Any, ...]] = {}
        self._events: dict[torch.device, torch.cuda.Event] = {}
        self.state: Any = None

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy ``state`` (nested dicts, lists, tuples of tensors and plain values) into :attr:`state`.

        Raises:
            TypeError: a value that could not be read back safely (not a tensor, not a plain value), with its place.
        """
        self._events = {}
        self._prepare_buffers(dict(_tensors(state, "")))
        self.state = self._copy(state, "")
        for device in self._events:
            self._events[device].record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Block until the copies from the devices have arrived."""
        for event in self._events.values():
            event.synchronize()

    def _copy(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value, path)
        if isinstance(value, Mapping):
            return {self._key(key, path): self._copy(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(self._copy(item, f"{path}[{index}]") for index, item in enumerate(value))
        if type(value) in _PLAIN:
            return value
        raise TypeError(
            f"A checkpoint holds tensors and plain values only, but its entry {path.lstrip('.')!r} is a "
            f"{type(value).__module__}.{type(value).__qualname__}: convert it before saving."
        )

    def _key(self, key: Any, path: str) -> str | int:
        if type(key) in (str, int):
            return key
        raise TypeError(f"A checkpoint's keys are strings or integers, but {path.lstrip('.')!r} has the key {key!r}.")

    def _copy_tensor(self, source: Tensor, path: str) -> Tensor:
        on_cuda = source.device.type == "cuda"
        buffer = self._buffers[path]
        buffer.copy_(source.detach(), non_blocking=on_cuda)
        if on_cuda:
            self._events.setdefault(source.device, torch.cuda.Event())
        return buffer

    def _prepare_buffers(self, sources: Mapping[str, Tensor]) -> None:
        """Keep the buffers where the state is as the last one was, and make all of them anew where it is not."""
        layout = {
            path: (source.shape, source.dtype, source.stride(), source.device) for path, source in sources.items()
        }
        if layout == self._layout:
            return
        self._buffers, self._layout = {}, {}
        on_cuda = {path: source for path, source in sources.items() if source.device.type == "cuda"}
        elsewhere = {
            path: torch.empty_like(source, device="cpu") for path, source in sources.items() if path not in on_cuda
        }
        self._buffers, self._layout = pinned_like(on_cuda) | elsewhere, layout


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state by the paths of :meth:`Snapshot._copy`."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{path}[{index}]")
