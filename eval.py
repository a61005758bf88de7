"""Evaluate a checkpoint: ``python eval.py checkpoint=runs/NAME`` (``--help`` lists the groups and keys).

``checkpoint`` is a run folder, a vitaos file, or a file of the release, DeiT, CaiT, Swin or timm (then also ``model=``,
``data=`` and the techniques it was trained with).
"""

from contextlib import closing

from vitaos import cli
from vitaos.assembly import evaluation, imagenet
from vitaos.assembly import fingerprint as identity
from vitaos.config import EvalConfig
from vitaos.runtime.world import initialize


def main(config: EvalConfig) -> None:
    """One evaluation: checkpoint -> model and data -> counts -> a table, a JSON file and a CSV file by class."""
    world = initialize(config.device)
    subject = evaluation.open_subject(config)
    with closing(evaluation.loader_of(config, subject, world)) as loader:
        classes = imagenet.match_classes(config.dataset, subject.class_names, loader.class_names, subject.path)
        model = evaluation.model_of(subject, classes).to(world.device)
        results = {
            weights: evaluation.judge(config, subject, model, weights, loader=loader, classes=classes, world=world)
            for weights in subject.choose_weights(config.weights)
        }
    if world.is_main:
        report = evaluation.Report(config, subject, loader.class_names, results)
        print(report.table())
        print(f"written: {', '.join(str(path) for path in report.write())}")


if __name__ == "__main__":
    cli.run(main, config_name="eval", declared=identity.EVAL_SCHEMA, toggles=identity.TOGGLES, about=__doc__)
