"""The bytes that an operation of torch moves: it reads its inputs and writes its outputs once; views are free."""

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.utils._pytree import tree_leaves

FREE: Final = frozenset({
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "_reshape_alias", "select",
    "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold",
    "_unsafe_view", "unsqueeze", "view", "_local_scalar_dense", "device", "promote_types", "record_stream",
})  # fmt: skip
"""Names of operations that move nothing."""
_WRITES_ONLY: Final = frozenset({"copy_", "zero_", "fill_"})


def bytes_of(name: str, args: Any, kwargs: Any, result: Any, *, counts: Callable[[Tensor], bool] | None = None) -> int:
    """Bytes that an operation moved.

    Args:
        name: as torch dispatches it, without its namespace.
        args, kwargs, result: what it was given and gave.
        counts: which tensors' memory counts; all where None.
    """
    read, made = (_tensors(tree, counts) for tree in ((args, kwargs), result))
    known = {id(one) for one in read}
    total = sum(map(size_of, read)) + sum(size_of(one) for one in made if id(one) not in known)
    if name.endswith("_") and read and name not in _WRITES_ONLY:  # what is changed in place is read and written
        lists = [part for part in args if isinstance(part, (list, tuple)) and part and isinstance(part[0], Tensor)]
        changed = _changed_lists(name, lists) if lists else read[:1]
        total += sum(map(size_of, _tensors(changed, counts)))
    return total


def _tensors(tree: Any, counts: Callable[[Tensor], bool] | None) -> list[Tensor]:
    leaves = (one for one in tree_leaves(tree) if isinstance(one, Tensor))
    return [one for one in leaves if counts is None or counts(one)]


def _changed_lists(name: str, lists: list[Any]) -> list[Any]:
    """Of a fused optimizer all but the gradients and the step counts; of other operations on lists the first."""
    return [lists[0], *lists[2:4]] if name.startswith("_fused") else lists[:1]


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor's elements, each expanded dimension once."""
    held = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        held *= length if stride else 1
    return held * tensor.element_size()
