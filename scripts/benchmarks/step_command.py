"""What techniques cost a step: ``python scripts/benchmark.py step model=deit_s12 [attnscale=true] [compile=both]``.

The plain model and each technique (those set to true; AttnScale and FeatScale when none is) take turns in one run.
Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

from dataclasses import dataclass, field

from vitaos import cli
from vitaos import config as configuration
from vitaos.config import ModelConfig, RecipeConfig, key
from vitaos.runtime.processes import DEVICES
from vitaos.technique_names import TECHNIQUE_HELP


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
    mode: str = key("both", "training steps, forward passes, or both", choices=("both", "train", "forward"))
    compile: str = key("false", "eager, compiled, or both", choices=("false", "true", "both"))
    rounds: int = key(15, "rounds in which the models take turns", low=1, high=10**6)
    steps: int | None = key(None, "steps of a model in a round; null: 10 on a GPU, else 1", low=1, high=10**6)
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


COMMAND = cli.Command("benchmark_step", configuration.schema(StepConfig, TECHNIQUE_HELP), __doc__)


def command() -> None:
    """The command line."""
    COMMAND.check()
    from scripts.benchmarks.step_models import main  # noqa: PLC0415 - seconds to import, which --help does not need

    COMMAND.run(main)
