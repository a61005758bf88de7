"""Bytes that a compiled training step moves: forward and backward by Inductor's own count, kernel by kernel.

    python -m tests.null_gpu.launch -m tests.null_gpu.programs.compiled_bytes model=deit_s12 batch_size=256

Words are those of ``train.py`` (the data are random images). Inductor makes its kernels, and none is built: a minute at
depth 12. Augmentation and update, which are not compiled, are counted as ``budget.py`` counts them. Prints one JSON
object; ``kernels`` are those that move most, like ones together: megabytes an image, how many, what they compute.

``compile=max-autotune`` takes Triton's products wherever they are faster than cuBLAS, and only into those it computes
what comes before and after; no time can be taken here, so that all products are taken to be Triton's: the least it may
move.
"""

import json
import sys
from collections import Counter
from typing import Any, Final
from unittest.mock import patch

from torch._inductor import async_compile, select_algorithm
from torch._inductor import config as inductor
from torch._inductor.dependencies import MemoryDep
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import FusedSchedulerNode

from tests.null_gpu.programs.budget import ByteCount, build_trainer, phases
from vitaos.engine.trainer import Trainer

_SHOWN: Final = 12
_SAID: Final = 60  # letters of what a kernel computes

Kernels = list[tuple[str, int]]


class _Unbuilt:
    """A kernel of Triton's that nobody compiles."""

    def run(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def count(trainer: Trainer) -> dict[str, Any]:
    """Megabytes an image by phase, and the kernels that move most."""
    found: dict[str, Kernels] = {}
    make_code = GraphLowering.codegen

    def counted(graph: GraphLowering) -> Any:
        made = make_code(graph)
        kernels = [(_computes(node), _bytes(node)) for node in graph.scheduler.nodes]
        found["backward" if graph.is_backward else "forward"] = kernels
        return made

    def choose(chooser: Any, name: str, choices: list[Any], *args: Any, **keywords: Any) -> Any:
        of_triton: list[Any] = [
            choice for choice in choices if isinstance(choice, select_algorithm.TritonTemplateCaller)
        ]
        return autotune(chooser, name, (of_triton or choices)[:1], *args, **keywords)

    autotune = select_algorithm.AlgorithmSelectorCache.__call__
    images, nbytes = trainer.settings.batch_size, {}
    trainer.network.train()
    with (
        patch.object(GraphLowering, "codegen", counted),
        patch.object(async_compile.AsyncCompile, "triton", lambda *_, **__: _Unbuilt()),
        patch.object(select_algorithm.AlgorithmSelectorCache, "__call__", choose),
        inductor.patch(fx_graph_cache=False, max_autotune_gemm_backends="TRITON"),
    ):
        batches = trainer.loader.epoch(0)
        for _, call in phases(trainer, next(batches)):  # compiles, and makes the optimizer's state
            call()
        trainer.progress.step += 1
        for name, call in phases(trainer, next(batches)):
            if name in {"forward", "backward"}:
                call()
                continue
            with ByteCount() as moved:
                call()
            nbytes[name] = sum(moved.of.values())
    nbytes |= {name: sum(size for _, size in kernels) for name, kernels in found.items()}
    megabytes = {name: round(size / images / 1e6, 1) for name, size in nbytes.items()}
    total = round(sum(nbytes.values()) / images / 1e6, 1)
    return {"megabytes_an_image": megabytes | {"step": total}, "kernels": _most(found, images)}


def _bytes(node: Any) -> int:
    """Inductor's count, which takes a buffer as a whole where joined kernels read a part of it (values' sums)."""
    counted: dict[str, int] = node.get_read_write_buffer_accesses(include_reads=True, include_writes=True)
    if isinstance(node, FusedSchedulerNode):
        for name, size in counted.items():
            parts = {one for one in (*node.read_writes.reads, *node.read_writes.writes) if one.name == name}
            sizes = [one.numbytes_hint() for one in parts if isinstance(one, MemoryDep)]
            if len(sizes) == len(parts) and all(sizes):
                counted[name] = min(size, sum(sizes))
    return sum(counted.values())


def _computes(node: Any) -> str:
    """The operations of the graph that a kernel computes, without those that only look."""
    operations: set[str] = set()
    for part in node.get_nodes():
        origins = () if part.node is None else part.node.origins
        operations |= {str(one.target).partition("aten.")[2].partition(".")[0] for one in origins}
    return " ".join(sorted(operations - {"", "permute", "reshape", "view", "unbind", "clone"})) or "cast"


def _most(found: dict[str, Kernels], images: int) -> dict[str, list[str]]:
    told = {}
    for name, kernels in found.items():
        sizes: Counter[str] = Counter()
        for computes, size in kernels:
            sizes[computes] += size
        times = Counter(computes for computes, _ in kernels)
        told[name] = [
            f"{size / images / 1e6:.1f} MB, {times[computes]} x {computes[:_SAID]}"
            for computes, size in sizes.most_common(_SHOWN)
        ]
    return told


if __name__ == "__main__":
    words = sys.argv[1:]
    asked = [] if any(word.startswith("compile=") for word in words) else ["compile=true"]
    print(json.dumps(count(build_trainer([*words, *asked])), indent=1))
