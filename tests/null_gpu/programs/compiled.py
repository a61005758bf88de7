"""Compiled training and evaluation of two epochs: ``compiled.py BACKEND FAMILY ...``. Prints a JSON line for each case.

With BACKEND ``inductor``, Inductor and Triton compile for sm_90 as they would on an H100; with ``aot_eager`` the graphs
are taken and differentiated alone, which is much quicker and shows breaks and recompilations as well.
"""

import json
import sys
import traceback
from functools import partialmethod
from typing import Any, Final

import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.null_gpu.programs.miniature import Run, build_run, data_root, overrides_of
from tests.null_gpu.recording import recording

CASES: Final = {"plain": (), "both": ("attnscale=true", "featscale=true")}
STEPS: Final = 2


def facts_of(run: Run) -> dict[str, Any]:
    """Two epochs, cut short: graphs compiled by the end of each, what broke them, launches of the kernel of bands."""
    trainer, graphs = run.trainer, []
    for epoch in range(2):
        batches = run.loaders.train.epoch(epoch, 0)
        trainer.network.train()
        for _ in range(STEPS):
            with recording() as record:
                trainer._train_step(batches)
            trainer.progress.step += 1
        evaluate(run)
        graphs.append(counters["stats"]["unique_graphs"])
    return {
        "graphs": graphs,
        "bands": record.kernels["_band"],
        "breaks": dict(counters["graph_break"]),
        "evaluated batches": sorted({len(batch.images) for batch in run.loaders.val}),
    }


def evaluate(run: Run) -> None:
    """Evaluate the model and its average, as at the end of an epoch."""
    assert run.trainer.ema is not None
    try:
        run.trainer.conclusion.evaluate([run.trainer.model, run.trainer.ema.module])
    except ValueError as error:  # no kernel computes, so nothing was counted
        if "no image was left" not in str(error):
            raise


def main(backend: str, families: list[str]) -> None:
    """Every case; one that raises says so and the next begins."""
    nn.Module.compile = partialmethod(nn.Module.compile, backend=backend)  # type: ignore[method-assign]
    root = data_root()
    for family in families:
        for name, overrides in CASES.items():
            torch._dynamo.reset()
            counters.clear()
            words = ("compile=auto", "batch_size=100", "recipe.ema_decay=0.999", *overrides)
            try:
                found = facts_of(build_run(overrides_of(family, root, *words)))
            except Exception:
                found = {"error": traceback.format_exc(limit=-5)}
            print(json.dumps({"case": f"{family}: {name}"} | found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
