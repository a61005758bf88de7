"""The bytes that kernels would move if each read its inputs and wrote its outputs once (views are free)."""

from abc import abstractmethod
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitaos.data.augment import gpu_kernels

_FREE: Final = frozenset({
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "_reshape_alias", "select",
    "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold",
    "_unsafe_view", "unsqueeze", "view", "_local_scalar_dense", "record_stream",
})  # fmt: skip
_WRITES_ONLY: Final = frozenset({"copy_", "zero_", "fill_"})


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
        self.add(str(kernel), sum(_size(one) for one in arguments if isinstance(one, Tensor)))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in _FREE:
            self.add(name, _bytes_of(name, args, tree_leaves((args, kwargs or {})), tree_leaves(result)))
        return result


def _bytes_of(name: str, args: Any, given: list[Any], made: list[Any]) -> int:
    read = [one for one in given if isinstance(one, Tensor) and one.is_cuda]
    known = {id(one) for one in read}
    written = [one for one in made if isinstance(one, Tensor) and one.is_cuda and id(one) not in known]
    total = sum(map(_size, read)) + sum(map(_size, written))
    if name.endswith("_") and read and name not in _WRITES_ONLY:  # what is changed in place is read and written
        changed = len(args[0]) if name.startswith("_foreach") else 1
        total += sum(map(_size, read[:changed]))
    return total


def _size(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return min(size, tensor.untyped_storage().nbytes()) if 0 in tensor.stride() else size
