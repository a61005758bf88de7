"""What techniques cost a step: ``python scripts/benchmark.py step model=deit_s12 [attnscale=true] [compile=both]``.

The plain model and each technique (those set to true; AttnScale and FeatScale when none is) take turns in one run.
Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from torch import nn

import vitaos
from scripts.benchmarks.hardware import describe, peak_flops
from scripts.benchmarks.record import write_record
from scripts.benchmarks.step import FORWARD, PLAIN, TRAIN, Row, measure_step, table
from vitaos import cli
from vitaos import config as configuration
from vitaos.config import ModelConfig, RecipeConfig, key
from vitaos.engine.precision import Precision, build_precision
from vitaos.runtime.world import DEVICES, World, initialize
from vitaos.technique_names import TECHNIQUE_HELP

MODES: Final = {"both": (TRAIN, FORWARD), TRAIN: (TRAIN,), FORWARD: (FORWARD,)}
COMPILED: Final = {"false": (False,), "true": (True,), "both": (False, True)}


@dataclass
class StepConfig:
    """Everything about a measurement of steps; `recipe` is chosen by the model and of no consequence."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    depth: int | None = key(None, "number of blocks; null: the backbone's own", low=1, high=1000)
    img_size: int = key(224, "side of the images in pixels", low=1, high=2**14)
    num_classes: int = key(1000, "classes of the classifier", low=1, high=10**7)
    batch_size: int | None = key(None, "images in a batch; null: 256 on a GPU, else 8", low=1, high=10**6)
    device: str = key("auto", "auto: a GPU where there is one", choices=DEVICES)
    precision: str | None = key(None, "null: bf16 on a GPU, else fp32", choices=(None, "bf16", "fp16", "fp32"))
    mode: str = key("both", "training steps, forward passes, or both", choices=tuple(MODES))
    compile: str = key("false", "eager, compiled, or both", choices=tuple(COMPILED))
    rounds: int = key(15, "rounds in which the models take turns", low=1, high=10**6)
    steps: int | None = key(None, "steps of a model in a round; null: 10 on a GPU, else 1", low=1, high=10**6)
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


def command() -> None:
    """The command line."""
    schema = configuration.schema(StepConfig, TECHNIQUE_HELP)
    cli.run(main, config_name="benchmark_step", schema=schema, about=__doc__ or "")


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
    """Let these models take turns, as a :class:`StepConfig` says."""
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
    """Makes the model that a :class:`StepConfig` names, without techniques."""
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
