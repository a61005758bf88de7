"""Measure: ``python scripts/benchmark.py step|loader|augment|end_to_end|... key=value ...`` (``--help`` after the
first word).

step        a training step and a forward pass, plain and with each technique, eager and compiled
loader      how fast images arrive, by loader and number of workers
augment     the batched augmentation on the device against timm's on the CPU
end_to_end  a training run's rate against that of its loader alone and of its steps alone
contention  how much a loader slows the thread that trains, by number of threads
roofline    what bounds a step on a GPU (FLOPs, bytes, launches, counted), and the hours of an experiment
tokens      what token merging saves in a step and a forward pass, by the number of tokens that merge
fidelity    how well merged tokens keep a trained model's features, by criterion
"""

import importlib
import sys
from pathlib import Path
from typing import Final

from vitaos.commands import take_command

COMMANDS: Final = {
    "step": "scripts.benchmarks.step_command",
    "loader": "scripts.benchmarks.loader_command",
    "augment": "scripts.benchmarks.augment_command",
    "end_to_end": "scripts.benchmarks.end_to_end_command",
    "contention": "scripts.benchmarks.contention_command",
    "roofline": "scripts.benchmarks.roofline_command",
    "tokens": "scripts.benchmarks.tokens_command",
    "fidelity": "scripts.benchmarks.fidelity_command",
}


def main() -> None:
    """Hand the rest of the command line to what its first word names."""
    module = take_command(COMMANDS, __doc__)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the measurements are modules beside this script
    importlib.import_module(module).command()


if __name__ == "__main__":
    main()
