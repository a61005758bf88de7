"""Models with techniques that take turns in steps: what ``benchmark.py step`` measures, and ``tokens`` too."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from torch import nn

import vitaos
from scripts.benchmarks.hardware import describe, peak_flops
from scripts.benchmarks.record import write_record
from scripts.benchmarks.step import FORWARD, PLAIN, TRAIN, Row, measure_step, table
from vitaos import config as configuration
from vitaos.engine.precision import Precision, build_precision
from vitaos.runtime.world import World, initialize

MODES: Final = {"both": (TRAIN, FORWARD), TRAIN: (TRAIN,), FORWARD: (FORWARD,)}
COMPILED: Final = {"false": (False,), "true": (True,), "both": (False, True)}


def main(config: Any) -> None:
    """Measure, print, write."""
    measured = measure_models(config, _makers(config), compiled=COMPILED[config.compile])
    print(f"{measured.heading}; peak {measured.peak / 1e12:.2f} TFLOP/s ({measured.peak_source})")
    print("\n".join(table(measured.rows)))
    measured.write(config)


@dataclass(frozen=True)
class Measured:
    """Steps of some models, and on what they were taken."""

    world: World
    precision: Precision
    batch_size: int
    peak: float
    peak_source: str
    hardware: dict[str, Any]
    rows: list[Row]
    heading: str

    def write(self, config: Any, more: Sequence[dict[str, Any]] = ()) -> None:
        """The record of ``out=FILE.json``, with further rows."""
        write_record(
            config.out,
            config=asdict(config) | {"batch_size": self.batch_size, "precision": self.precision.name},
            hardware=self.hardware | {"peak_flops": self.peak, "peak_from": self.peak_source},
            rows=[*map(asdict, self.rows), *more],
        )


def measure_models(config: Any, makers: dict[str, Callable[[], nn.Module]], *, compiled: tuple[bool, ...]) -> Measured:
    """Let these models take turns, as a :class:`~scripts.benchmarks.step_command.StepConfig` says."""
    world = initialize(config.device)
    on_gpu = world.device.type == "cuda"
    precision = build_precision(config.precision or ("bf16" if on_gpu else "fp32"), world.device)
    batch_size = config.batch_size or (256 if on_gpu else 8)
    peak, source = peak_flops(world.device, precision.name)
    rows = measure_step(
        makers,
        modes=MODES[config.mode],
        compiled=compiled,
        batch_size=batch_size,
        img_size=config.img_size,
        num_classes=config.num_classes,
        device=world.device,
        precision=precision,
        peak=peak,
        rounds=config.rounds,
        steps=config.steps or (10 if on_gpu else 1),
    )
    hardware = describe(world.device)
    heading = (
        f"{config.model.name}, {config.img_size} px, batch {batch_size}, {precision.name}, medians of {config.rounds} "
        f"rounds; {hardware['device']}, {hardware['threads']} threads, torch {hardware['torch']}"
    )
    return Measured(world, precision, batch_size, peak, source, hardware, rows, heading)


def plain_maker(config: Any) -> partial[nn.Module]:
    """Makes the model that a :class:`~scripts.benchmarks.step_command.StepConfig` names, without techniques."""
    return partial(
        vitaos.create_model,
        config.model.name,
        num_classes=config.num_classes,
        img_size=config.img_size,
        depth=config.depth,
        **config.model.keywords,
    )


def _makers(config: Any) -> dict[str, Callable[[], nn.Module]]:
    """Plain, each technique asked for alone, and all of them together where there are several."""
    asked = configuration.enabled_techniques(config) or {"attnscale": True, "featscale": True}
    chosen: dict[str, dict[str, Any]] = {PLAIN: {}} | {name: {name: value} for name, value in asked.items()}
    if len(asked) > 1:
        chosen[" + ".join(asked)] = dict(asked)
    make = plain_maker(config)
    return {name: partial(make, **techniques) for name, techniques in chosen.items()}
