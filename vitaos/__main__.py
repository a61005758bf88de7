"""``vitaos COMMAND key=value ...``, ``python -m vitaos COMMAND ...``, ``torchrun -m vitaos train ...``: the commands.

train             train a model                         eval              evaluate a checkpoint
analyze           the paper's figures of a model        report            a report over many runs
benchmark         rates of steps, loaders, runs         write-ffcv        class folders -> an FFCV file
prepare-imagenet  the archives of ImageNet -> folders
export            a trained model -> a folder for others, ONNX, a torch.export program

``vitaos COMMAND --help`` lists the keys of each.
"""

import runpy
import sys
from pathlib import Path
from typing import Final

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
}
_USER_ERROR: Final = 2


def main() -> None:
    """Run the command that the first word names, as if its file had been started."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help", "help"}:
        print(__doc__)
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}. Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(_USER_ERROR)
    path: Path = ROOT / COMMANDS[name]
    sys.argv[:2] = [str(path)]
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
