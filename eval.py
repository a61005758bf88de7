"""Evaluate a checkpoint: ``python eval.py checkpoint=runs/NAME`` (``--help`` lists the groups and keys).

``checkpoint`` is a run folder, a vitaos file, or a file of the release, DeiT, CaiT, Swin or timm (then also ``model=``,
``data=`` and the techniques it was trained with).
"""

from contextlib import closing
from functools import partial

from vitaos import cli
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.config import EvalConfig

COMMAND = cli.Command("eval", EVAL_SCHEMA, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos.assembly import eval_target, evaluation, imagenet
from vitaos.runtime.world import initialize


def main(config: EvalConfig) -> None:
    """One evaluation: checkpoint -> model and data -> counts -> a table, a JSON file and a CSV file by class."""
    if not config.checkpoint:
        raise ValueError("checkpoint=RUN_OR_FILE is missing: a run folder, or a .pt, .pth or .safetensors file")
    world = initialize(config.device)
    target = eval_target.resolve_checkpoint(config, config.checkpoint)
    with closing(eval_target.build_loader(config, target, world)) as loader:
        classes = imagenet.match_classes(config.dataset, target.class_names, loader.class_names, target.file)
        model = eval_target.build_model(target, classes.answers).to(world.device)
        evaluate = partial(evaluation.evaluate_checkpoint, config, target, model, loader=loader, classes=classes)
        results = {weights: evaluate(weights, world=world) for weights in target.choose_weights(config.weights)}
    if world.is_main:
        report = evaluation.Report(config, target, loader.class_names, results)
        print(report.table())
        print(f"written: {', '.join(str(path) for path in report.write())}")


if __name__ == "__main__":
    COMMAND.run(main)
