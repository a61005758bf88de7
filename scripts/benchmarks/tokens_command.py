"""What token merging saves: ``python scripts/benchmark.py tokens model=deit_s12 [r=[0,4,8,13,16]]``.

The model with each r takes turns with the plain one, in inference and in training steps; the share of the merging
itself (matching and means) in a forward pass is timed block by block. Other options of ``token_merging`` are given by
``merging={criterion: hf}``. Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import vitaos
from scripts.benchmarks.hardware import describe, peak_flops, synchronize
from scripts.benchmarks.record import write_record
from scripts.benchmarks.step import PLAIN, measure_step, table
from scripts.benchmarks.step_command import MODES, StepConfig
from vitaos import cli
from vitaos import config as configuration
from vitaos.config import key
from vitaos.engine.precision import Precision, build_precision
from vitaos.runtime.world import initialize


@dataclass
class TokensConfig(StepConfig):
    """Everything about a measurement of token merging."""

    r: list[int] = key([4, 8, 13, 16], "tokens that each block merges, for each model to measure", low=0, high=10**6)
    merging: dict[str, Any] = field(default_factory=dict, metadata={"help": "further options of token_merging"})


def command() -> None:
    """The command line."""
    cli.run(main, config_name="benchmark_step", schema=configuration.schema(TokensConfig, {}), about=__doc__ or "")


def main(config: Any) -> None:
    """Measure, print, write."""
    world = initialize(config.device)
    on_gpu = world.device.type == "cuda"
    precision = build_precision(config.precision or ("bf16" if on_gpu else "fp32"), world.device)
    batch_size = config.batch_size or (256 if on_gpu else 8)
    peak, source = peak_flops(world.device, precision.name)
    makers = _makers(config)
    rows = measure_step(
        makers,
        modes=MODES[config.mode],
        compiled=(False,),
        batch_size=batch_size,
        img_size=config.img_size,
        num_classes=config.num_classes,
        device=world.device,
        precision=precision,
        peak=peak,
        rounds=config.rounds,
        steps=config.steps or (10 if on_gpu else 1),
    )
    images = torch.randn(batch_size, 3, config.img_size, config.img_size, generator=torch.Generator().manual_seed(0))
    shares = {
        name: merging_share(make().to(world.device).eval(), images.to(world.device), precision)
        for name, make in makers.items()
        if name != PLAIN
    }
    hardware = describe(world.device)
    print(
        f"{config.model.name}, {config.img_size} px, batch {batch_size}, {precision.name}, medians of {config.rounds} "
        f"rounds; {hardware['device']}, {hardware['threads']} threads, torch {hardware['torch']}"
    )
    print("\n".join(table(rows)))
    print("\nShare of matching and means in a forward pass: ", end="")
    print(", ".join(f"{name} {100 * share:.1f}%" for name, share in shares.items()))
    write_record(
        config.out,
        config=asdict(config) | {"batch_size": batch_size, "precision": precision.name},
        hardware=hardware | {"peak_flops": peak, "peak_from": source},
        rows=[asdict(row) for row in rows] + [{"name": name, "merging_share": share} for name, share in shares.items()],
    )


def _makers(config: Any) -> dict[str, Callable[[], nn.Module]]:
    """The plain model, and one for each r above 0."""
    make = partial(
        vitaos.create_model,
        config.model.name,
        num_classes=config.num_classes,
        img_size=config.img_size,
        depth=config.depth,
        **config.model.keywords,
    )
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
