"""A key that each technique may tune for itself, such as the rate: the value that is best on held-out images is taken.

The choice reads ``RUN/held_out/*-val.json``, what ``eval.py`` made of images that are neither trained on nor reported,
so that nothing is chosen on the images that the report counts.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Any, Final

from vitaos.study.run_files import read_top1
from vitaos.study.runs import Run

__all__ = ["HELD_OUT", "choose_by_held_out"]

HELD_OUT: Final = "held_out"


def choose_by_held_out(runs: Sequence[Run], key: str) -> tuple[list[Run], list[str]]:
    """Keep, of the finished runs of a model, dataset, depth and technique, those with the best value of a key.

    Args:
        runs: all runs, finished or not.
        key: of the configuration, ``recipe.lr`` for one.

    Returns:
        The runs that are left, and a line for each choice: what was taken, out of what, and by which accuracies (mean
        over the seeds of a value).

    Raises:
        ValueError: no run has the key; or a choice has to be made and a run has no accuracy on held-out images. The
            message names the run and the command.
    """
    if not any(key in run.config for run in runs):
        raise ValueError(f"choose={key}: no run has this key in its configuration")
    groups: dict[tuple[Any, ...], dict[Any, list[Run]]] = {}
    for run in runs:
        if run.is_finished:
            cell = (run.model, str(run.config.get("data.name")), run.depth, run.technique)
            groups.setdefault(cell, {}).setdefault(run.config.get(key), []).append(run)
    left = [run for run in runs if not run.is_finished]
    lines = []
    for (model, _, depth, technique), by_value in groups.items():
        best = next(iter(by_value))
        if len(by_value) > 1:
            accuracies = {value: mean(map(_held_out_top1, tuned)) for value, tuned in by_value.items()}
            best = max(accuracies, key=lambda value: accuracies[value])
            tried = ", ".join(
                f"{value}: {accuracies[value]:.2f}% (n = {len(by_value[value])})"
                for value in sorted(accuracies, key=str)
            )
            blocks = "" if depth is None else f", {depth} blocks"
            lines.append(f"{model}{blocks}, {technique}: {key}={best}, best on held-out images of {tried}.")
        left += by_value[best]
    return left, lines


def _held_out_top1(run: Run) -> float:
    """Top-1 on the held-out images of the last weights, the average's where there is one."""
    folder = run.path / HELD_OUT
    found = read_top1(folder, "*-val.json")
    if found is None:
        raise ValueError(
            f"{run.path}: no accuracy on held-out images to choose by in {folder}. Make it with: python eval.py "
            f"checkpoint={run.path} data=... data.root=... out={folder}"
        )
    return found
