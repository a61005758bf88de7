"""What token merging saves: ``python scripts/benchmark.py tokens model=deit_s12 [r=[0,4,8,13,16]]``.

The model with each r takes turns with the plain one, in inference and in training steps; the share of the merging
itself (matching and means) in a forward pass is timed block by block. Other options of ``token_merging`` are given by
``merging={criterion: hf}``. Prints a table; `out=FILE.json` keeps the numbers with hardware and versions.
"""

from dataclasses import dataclass, field
from typing import Any

from scripts.benchmarks.step_command import StepConfig
from vitaos import cli
from vitaos import config as configuration
from vitaos.config import key


@dataclass
class TokensConfig(StepConfig):
    """Everything about a measurement of token merging."""

    r: list[int] = key([4, 8, 13, 16], "tokens that each block merges, for each model to measure", low=0, high=10**6)
    merging: dict[str, Any] = field(default_factory=dict, metadata={"help": "further options of token_merging"})


COMMAND = cli.Command("benchmark_step", configuration.schema(TokensConfig, {}), __doc__)


def command() -> None:
    """The command line."""
    COMMAND.check()
    from scripts.benchmarks.tokens import main  # noqa: PLC0415 - seconds to import, which --help does not need

    COMMAND.run(main)
