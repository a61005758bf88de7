"""Steps and forward passes of models that merge tokens beside the plain one: ``benchmark.py tokens``."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scripts.benchmarks.hardware import synchronize
from scripts.benchmarks.step import PLAIN, table
from scripts.benchmarks.step_models import measure_models, plain_maker
from vitaos.engine.precision import Precision


def main(config: Any) -> None:
    """Measure, print, write."""
    makers = _makers(config)
    measured = measure_models(config, makers, compiled=(False,))
    device, precision = measured.world.device, measured.precision
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(measured.batch_size, 3, config.img_size, config.img_size, generator=generator)
    shares = {
        name: merging_share(make().to(device).eval(), images.to(device), precision)
        for name, make in makers.items()
        if name != PLAIN
    }
    print(measured.heading)
    print("\n".join(table(measured.rows)))
    print("\nShare of matching and means in a forward pass: ", end="")
    print(", ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items()))
    measured.write(config, [{"name": name, "merging_share": share} for name, share in shares.items()])


def _makers(config: Any) -> dict[str, Callable[[], nn.Module]]:
    """The plain model, and one for each r above 0."""
    make = plain_maker(config)
    found: dict[str, Callable[[], nn.Module]] = {PLAIN: make}
    for r in config.r:
        if r:
            found[f"r={r}"] = partial(make, token_merging={"r": r, **config.merging})
    return found


def merging_share(model: nn.Module, images: Tensor, precision: Precision, passes: int = 5) -> float:
    """Share of a forward pass's processor time (on a GPU: time) that goes into finding and merging tokens."""
    device, spent = images.device, 0.0
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal spent
            synchronize(device)
            begin = clock()
            result = function(*args)
            synchronize(device)
            spent += clock() - begin
            return result

        return call

    for block in model.blocks:  # type: ignore[union-attr]
        module: Any = block
        module.tokens = tuple((priority, timed(function)) for priority, function in module.tokens)
        module.attn.scores = tuple((priority, timed(function)) for priority, function in module.attn.scores)
    with torch.no_grad(), precision.autocast():
        model(images)
        spent, begin = 0.0, clock()
        for _ in range(passes):
            model(images)
        synchronize(device)
    return spent / (clock() - begin)
