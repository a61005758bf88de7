"""How well merged tokens keep a trained model's features: ``python scripts/benchmark.py fidelity model=timm/NAME
weights=FILE images=FOLDER [r=[4,8,13,16]]``.

For each r and each criterion of ``token_merging`` (pseudo-random pairs among them): the cosine of the pooled features
to those of the whole model, mean over the images, of the class token and of the mean over patch tokens (weighed by
size). Prints a table; `out=FILE.json` keeps the numbers.
"""

from dataclasses import dataclass, field
from typing import Any

from vitaos import cli
from vitaos import config as configuration
from vitaos.config import ModelConfig, RecipeConfig, key
from vitaos.runtime.processes import DEVICES


@dataclass
class FidelityConfig:
    """Everything about a comparison of features; `recipe` is chosen by the model and of no consequence."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    weights: str | None = key(None, "file of trained weights of the model; null: untrained", is_path=True)
    images: str = key("data/val", "folder of images, of which evenly spaced ones are taken", is_path=True)
    count: int = key(32, "images to take", low=1, high=10**6)
    img_size: int = key(224, "side of the images in pixels", low=1, high=2**14)
    depth: int | None = key(None, "number of blocks; null: the backbone's own", low=1, high=1000)
    batch_size: int = key(8, "images in a batch", low=1, high=10**6)
    r: list[int] = key([4, 8, 13, 16], "tokens that each block merges, for each model to measure", low=1, high=10**6)
    criteria: list[str] = key([], "what pairs are chosen by; none named: every criterion")
    merging: dict[str, Any] = field(default_factory=dict, metadata={"help": "further options of token_merging"})
    device: str = key("auto", "auto: a GPU where there is one", choices=DEVICES)
    out: str | None = key(None, "file of the numbers, FILE.json", is_path=True)


COMMAND = cli.Command("benchmark_fidelity", configuration.schema(FidelityConfig, {}), __doc__)


def command() -> None:
    """The command line."""
    COMMAND.check()
    from scripts.benchmarks.fidelity import main  # noqa: PLC0415 - seconds to import, which --help does not need

    COMMAND.run(main)
