"""Train a model: ``torchrun train.py model=deit_s24 attnscale=true`` (``--help`` lists the groups and keys).

A run: configuration -> data -> model -> engine -> outputs, in vitaos/assembly/run.py.
"""

from vitaos import cli
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import TrainConfig

COMMAND = cli.Command("train", TRAIN_SCHEMA, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos.assembly import run


def main(config: TrainConfig) -> int:
    """One run, from its checked configuration to its exit status."""
    return run.train(config).status


if __name__ == "__main__":
    COMMAND.run(main)
