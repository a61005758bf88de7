"""The bytes that kernels would move if each read its inputs and wrote its outputs once (views are free)."""

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.benchmarks.traffic import FREE, bytes_of, size_of
from vitaos.data.augment import gpu_kernels


class Traffic(TorchDispatchMode):
    """Counts the bytes of CUDA tensors that each operation and each of the augmentation's kernels moves."""

    @abstractmethod
    def add(self, name: str, nbytes: int) -> None:
        """So many bytes were moved by what has this name."""

    def __enter__(self) -> Any:
        self._launch, gpu_kernels.launch = gpu_kernels.launch, self._counted_launch
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        gpu_kernels.launch = self._launch
        super().__exit__(*error)

    def _counted_launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Triton's launches are no operations of torch; all tensors are counted whole, read or written."""
        self._launch(kernel, grid, *arguments, **constants)
        self.add(str(kernel), sum(size_of(one) for one in arguments if isinstance(one, Tensor)))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in FREE:
            self.add(name, bytes_of(name, args, kwargs or {}, result, counts=lambda one: one.is_cuda))
        return result
