"""Launches and bytes of a training step by phase: augmentation, forward, backward, update.

Bytes are what the kernels would read and write if each read its inputs and wrote its outputs once (views are free).
Compiled code is not counted.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.null_gpu import recording
from tests.null_gpu.programs.miniature import Run, build_run, data_root
from vitaos.data.augment import gpu_kernels

MODELS: Final = {"deit_s12": ("recipe=deit_12",), "cait_s24": ("recipe=cait_finetune",), "swin_s": ("recipe=swin",)}
PHASES: Final = ("augmentation", "forward", "backward", "update")
_FREE: Final = frozenset({
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "is_same_size", "lift_fresh", "new_empty", "new_empty_strided", "permute", "_reshape_alias", "select",
    "set_", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold",
    "_unsafe_view", "unsqueeze", "view", "_local_scalar_dense", "record_stream",
})  # fmt: skip
_WRITES_ONLY: Final = frozenset({"copy_", "zero_", "fill_"})


class Phases(TorchDispatchMode):
    """Counts by phase, between :meth:`__enter__` and :meth:`__exit__`.

    Attributes:
        launches, nbytes, milliseconds: by phase; milliseconds are the host's, of this machine at this moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.nbytes: Counter[str] = Counter()
        self.milliseconds: Counter[str] = Counter()
        self._phase, self._before, self._begun = "update", recording.count("launch"), time.perf_counter()

    def enter(self, phase: str) -> None:
        """What comes from now on belongs to this phase."""
        now, launches = time.perf_counter(), recording.count("launch")
        self.launches[self._phase] += launches - self._before
        self.milliseconds[self._phase] += 1000 * (now - self._begun)
        self._phase, self._before, self._begun = phase, launches, now

    def __enter__(self) -> Any:
        self._launch, gpu_kernels.launch = gpu_kernels.launch, self._counted_launch
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        gpu_kernels.launch = self._launch
        super().__exit__(*error)

    def _counted_launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Triton's launches are no operations of torch; all tensors are counted whole, read or written."""
        self._launch(kernel, grid, *arguments, **constants)
        self.nbytes[self._phase] += sum(_size(one) for one in arguments if isinstance(one, Tensor))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in _FREE:
            self.nbytes[self._phase] += _bytes_of(name, args, tree_leaves((args, kwargs or {})), tree_leaves(result))
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


def counts_of(run: Run) -> dict[str, dict[str, int]]:
    """Take two steps and count the second: phase -> launches, kilobytes an image, milliseconds of the host."""
    trainer, batches = run.trainer, run.batches()
    trainer.network.train()
    trainer._train_step(batches)  # brings constants to the device and makes the optimiser's state
    phases = Phases()
    trainer.transform = _announced(
        trainer.transform, lambda: phases.enter("augmentation"), lambda: phases.enter("forward")
    )
    update: Any = trainer.update
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    update.loss_gradient = _announced(update.loss_gradient, nothing, lambda: phases.enter("backward"))
    update.apply = _announced(update.apply, lambda: phases.enter("update"), nothing)
    trainer.progress.step += 1
    with phases:
        trainer._train_step(batches)
    phases.enter("update")
    images = run.config.batch_size * run.config.accumulate
    return {
        phase: {
            "launches": phases.launches[phase],
            "kilobytes_an_image": phases.nbytes[phase] // images // 1000,
            "host_milliseconds": round(phases.milliseconds[phase]),
        }
        for phase in PHASES
    }


def _announced(
    function: Callable[..., Any], before: Callable[[], None], after: Callable[[], None]
) -> Callable[..., Any]:
    def called(*args: Any, **keywords: Any) -> Any:
        before()
        result = function(*args, **keywords)
        after()
        return result

    return called


def main() -> None:
    """Real sizes, plain and with both techniques: a JSON line for each."""
    root = data_root()
    for name, overrides in MODELS.items():
        for how, flags in {"plain": (), "both": ("attnscale=true", "featscale=true")}.items():
            words = ["data=digits", f"data.root={root}", "data.workers=1", "device=cuda", "data.img_size=224"]
            run = build_run([*words, "batch_size=16", "precision=bf16", f"model={name}", *overrides, *flags])
            print(json.dumps({"case": f"{name}: {how}", "counts": counts_of(run)}), flush=True)


if __name__ == "__main__":
    main()
