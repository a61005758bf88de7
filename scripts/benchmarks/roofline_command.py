"""What bounds a training step: ``python scripts/benchmark.py roofline experiment=deit_s24_attnscale [gpu=H100]``.

Takes the keys of train.py. Counts FLOPs, bytes and launches of the step on the real model, without values or a GPU, and
divides them by what the device can do at most; the slowest of the three bounds images/s, and that the hours of the run.
Nothing is measured: loading, augmentation (16 launches, 3 MB an image), evaluation and the exchange of gradients come
on top, and no kernel reaches a ceiling.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vitaos import cli
from vitaos import config as configuration
from vitaos.config import TrainConfig, key
from vitaos.gpus import CEILINGS
from vitaos.technique_names import TECHNIQUE_HELP

if TYPE_CHECKING:
    from scripts.benchmarks.roofline import StepNeeds

GPUS: Final = ("H100", "H200", "A100")
_IMAGENET: Final = 1_281_167


@dataclass
class RooflineConfig(TrainConfig):
    """A training run, and the device that it is held against."""

    gpu: str = key("H100", "whose ceilings, by its data sheet", choices=GPUS)
    tflops: float | None = key(None, "10^12 operations a second of products; null: the GPU's", above=0, high=1e9)
    terabytes_per_s: float | None = key(None, "10^12 bytes a second of memory; null: the GPU's", above=0, high=1e6)
    launch_us: float = key(
        4.0, "microseconds of the host a launch, an assumption: torch's take 4 to 20, CUDA's own 2", above=0, high=1e6
    )
    images: int = key(_IMAGENET, "training images of an epoch; ImageNet's unless said", low=1, high=10**12)


@dataclass(frozen=True)
class Bound:
    """The most images a second that a GPU could train.

    Attributes:
        compute, memory, launches: images/s, were there nothing else to wait for.
        gpu_hours: of the whole run at the least of them, all GPUs together.
    """

    compute: float
    memory: float
    launches: float
    gpu_hours: float

    @property
    def images_per_s(self) -> float:
        """The least of the three."""
        return min(self.compute, self.memory, self.launches)

    @property
    def binds(self) -> str:
        """Which of the three that is."""
        return min(("compute", "memory", "launches"), key=lambda name: float(getattr(self, name)))


def command() -> None:
    """The command line."""
    schema = configuration.schema(RooflineConfig, TECHNIQUE_HELP)
    cli.run(main, config_name="train", schema=schema, about=__doc__ or "")


def main(config: Any) -> None:
    """Count and print."""
    from scripts.benchmarks.roofline import count_step  # noqa: PLC0415 - seconds to import, which --help does not need

    needs = count_step(config, classes_of(config))
    print("\n".join(table(config, needs)))


def classes_of(config: TrainConfig) -> int:
    """Of the classifier: the data's, or ImageNet's where only the data would say."""
    return config.data.num_classes or 1000


def bound_of(config: Any, needs: "StepNeeds", *, compiled: bool) -> Bound:
    """The bound of a configuration (:class:`RooflineConfig`), eager or compiled."""
    of_sheet = CEILINGS[config.gpu]
    tflops = config.tflops or (of_sheet.single if config.precision == "fp32" else of_sheet.half)
    terabytes = config.terabytes_per_s or of_sheet.memory
    assert tflops is not None
    assert terabytes is not None
    flops, memory = 1e12 * tflops, 1e12 * terabytes
    batch = config.batch_size
    # The update comes once in a global step, whatever the micro-batches; it is fused already.
    share = 1 / config.accumulate

    def per_image(eager: str, fused: str) -> float:
        what = fused if compiled else eager
        passes = getattr(needs.forward, what) + getattr(needs.backward, what)
        return float(passes + share * getattr(needs.update, eager)) / batch

    compute = flops / per_image("flops", "flops")
    of_memory = memory / per_image("nbytes", "fused_nbytes")
    launches = 1e6 / config.launch_us / per_image("launches", "fused_launches")
    hours = config.images * config.epochs / min(compute, of_memory, launches) / 3600
    return Bound(compute, of_memory, launches, hours)


def is_compiled(config: Any) -> bool:
    """Whether a run of this configuration compiles on a GPU."""
    return config.compile is not False and not (config.compile == "auto" and config.deterministic)


def table(config: Any, needs: "StepNeeds") -> list[str]:
    """What is needed, and what follows, in lines."""
    batch, size = config.batch_size, config.data.img_size
    enabled = " + ".join(configuration.enabled_techniques(config)) or "plain"
    lines = [f"{config.model.name}, {enabled}, {size} px, batch {batch} a GPU, {config.precision}; {config.gpu}"]
    lines.append(f"{'':10}{'GFLOP':>9}{'MB eager':>10}{'MB fused':>10}   an image{'launches eager':>16}{'fused':>7}")
    for name in ("forward", "backward", "update"):
        part = getattr(needs, name)
        lines.append(
            f"{name:10}{part.flops / batch / 1e9:9.2f}{part.nbytes / batch / 1e6:10.1f}"
            f"{part.fused_nbytes / batch / 1e6:10.1f}{'':11}{part.launches:16,}{part.fused_launches:7,}"
        )
    chosen = is_compiled(config)
    for compiled in (False, True):
        bound = bound_of(config, needs, compiled=compiled)
        lines.append(
            f"{'compiled' if compiled else 'eager':10}at most {bound.images_per_s:,.0f} images/s a GPU, bound by "
            f"{bound.binds} (compute {bound.compute:,.0f}, memory {bound.memory:,.0f}, launches {bound.launches:,.0f})"
        )
        if compiled is chosen:
            total = f"{config.epochs} epochs of {config.images:,} images"
            hours = f"at least {bound.gpu_hours:.2g} {config.gpu}-hours in all ({total}; bound, not measured)"
    return [*lines, hours]
