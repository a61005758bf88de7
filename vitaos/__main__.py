"""``vitaos COMMAND key=value ...``, ``python -m vitaos COMMAND ...``, ``torchrun -m vitaos train ...``: the commands.

train             train a model                         eval              evaluate a checkpoint
analyze           the paper's figures of a model        report            a report over many runs
benchmark         rates of steps, loaders, runs         write-ffcv        class folders -> an FFCV file
prepare-imagenet  the archives of ImageNet -> folders
export            a trained model -> a folder for others, ONNX, a torch.export program
doctor            what this machine has and lacks for training

``vitaos COMMAND --help`` lists the keys of each.
"""

import runpy
import sys
from typing import Final

from vitaos.commands import take_command
from vitaos.root import ROOT

COMMANDS: Final = {
    "train": "train.py",
    "eval": "eval.py",
    "analyze": "scripts/analyze.py",
    "report": "scripts/report.py",
    "benchmark": "scripts/benchmark.py",
    "write-ffcv": "scripts/write_ffcv.py",
    "prepare-imagenet": "scripts/prepare_imagenet.py",
    "export": "scripts/export.py",
    "doctor": "scripts/doctor.py",
}


def main() -> None:
    """Run the command that the first word names, as if its file had been started."""
    path = ROOT / take_command(COMMANDS, __doc__)
    sys.argv[0] = str(path)
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
