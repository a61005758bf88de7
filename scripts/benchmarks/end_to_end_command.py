"""A run's rate against its parts': ``python scripts/benchmark.py end_to_end model=deit_s12 data=... [steps=60]``.

Takes the keys of train.py. The loader alone, the training steps alone (on one batch again and again) and the two
together take turns, three rounds of `steps` steps each; whole / slower part shows how well they overlap. Then 400 small
operations of torch are timed alone and beside the loader, which shows what its threads and the training thread take
from each other (`contention` shows it by number of threads). Nothing is written.
"""

from vitaos import cli
from vitaos.assembly.schemas import TRAIN_SCHEMA

COMMAND = cli.Command("train", TRAIN_SCHEMA, __doc__)


def command() -> None:
    """The command line."""
    COMMAND.check()
    from scripts.benchmarks.end_to_end import main  # noqa: PLC0415 - seconds to import, which --help does not need

    COMMAND.run(main)
