"""Evaluate a checkpoint: ``python eval.py checkpoint=runs/NAME`` (``--help`` lists the groups and keys).

``checkpoint`` is a run folder, a vitaos file, or a file of the release, DeiT, CaiT, Swin or timm (then also ``model=``,
``data=`` and the techniques it was trained with).
"""

from vitaos import cli
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.config import EvalConfig

COMMAND = cli.Command("eval", EVAL_SCHEMA, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos.assembly import evaluation, robustness


def main(config: EvalConfig) -> None:
    """One evaluation: checkpoint -> model and data -> counts -> a table, a JSON file and a CSV file by class.

    With ``robustness=`` the tests of that name follow, each as JSON, CSV and a figure.
    """
    report, files = evaluation.evaluate(config)
    if files:
        print(report.table())
        print(f"written: {', '.join(str(path) for path in files)}")
    if config.robustness:
        for path in robustness.test(config):
            print(path)


if __name__ == "__main__":
    COMMAND.run(main)
