"""A key that each technique may tune for itself, such as the rate: the value that is best on held-out images is taken.

The choice reads ``RUN/held_out/*-val.json``, what ``eval.py`` made of images that are neither trained on nor reported,
so that nothing is chosen on the images that the report counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Final

from vitaos.study.labels import blocks_text
from vitaos.study.run_files import read_step, read_top1
from vitaos.study.runs import Run

__all__ = ["HELD_OUT", "SEEDS_OF_AN_INTERVAL", "Choice", "Trial", "choose_by_held_out", "values_of"]

HELD_OUT: Final = "held_out"
SEEDS_OF_AN_INTERVAL: Final = 3
"""Seeds from which on a mean has an interval worth showing: that of two is as wide as the axis."""


@dataclass(frozen=True)
class Trial:
    """The finished runs of a setting that have one value of the tuned key.

    Attributes:
        value: of the key.
        runs: that have it, a seed each.
        held_out: their top-1 on held-out images, mean over seeds; None where nothing had to be chosen.
    """

    value: Any
    runs: tuple[Run, ...]
    held_out: float | None


@dataclass(frozen=True)
class Choice:
    """What a setting (model, dataset, depth, technique) tried of a key, and what was taken.

    Attributes:
        key: of the configuration.
        trials: in the order of their values.
        value: the one that was taken.
    """

    key: str
    trials: tuple[Trial, ...]
    value: Any

    @property
    def run(self) -> Run:
        """Any run of the setting: it names model, dataset, dose, depth and technique."""
        return self.trials[0].runs[0]

    @property
    def line(self) -> str:
        """What was taken, out of what, and by which accuracies."""
        run = self.run
        tried = ", ".join(f"{trial.value}: {trial.held_out:.2f}% (n = {len(trial.runs)})" for trial in self.trials)
        fewer = [str(trial.value) for trial in self.trials if len(trial.runs) < _seeds_asked(self.trials)]
        left_out = f"; with too few seeds to be taken: {', '.join(fewer)}" if fewer else ""
        setting = f"{run.model}{blocks_text(run.depth)}, {run.technique}"
        return f"{setting}: {self.key}={self.value}, best on held-out images of {tried}{left_out}."


def choose_by_held_out(runs: Sequence[Run], key: str) -> tuple[list[Run], list[Choice]]:
    """Keep, of the finished runs of a model, dataset, depth and technique, those with the best value of a key.

    A value needs as many seeds as the one that has most, or three, to be taken.

    Args:
        runs: all runs, finished or not.
        key: of the configuration, ``recipe.lr`` for one.

    Returns:
        The runs that are left, and what every setting tried.

    Raises:
        ValueError: no run has the key; or a choice has to be made and a run has no accuracy on held-out images. The
            message names the run and the command.
    """
    if not any(key in run.config for run in runs):
        raise ValueError(f"choose={key}: no run has this key in its configuration")
    groups: dict[tuple[Any, ...], dict[Any, list[Run]]] = {}
    for run in runs:
        if run.is_finished:
            cell = (run.model, run.data, run.depth, run.technique)
            groups.setdefault(cell, {}).setdefault(_value(run, key), []).append(run)
    choices = [_choose(key, by_value) for by_value in groups.values()]
    left = [run for run in runs if not run.is_finished]
    for choice in choices:
        left += next(trial.runs for trial in choice.trials if trial.value == choice.value)
    return left, choices


def values_of(choices: Sequence[Choice]) -> list[Any]:
    """All values that any setting tried: numbers by size, then anything else by its text."""
    return sorted(dict.fromkeys(trial.value for choice in choices for trial in choice.trials), key=_order)


def _value(run: Run, key: str) -> Any:
    """What a run has for the key; a list becomes a tuple, so that runs can be grouped by it."""
    value = run.config.get(key)
    return tuple(value) if isinstance(value, list) else value


def _choose(key: str, by_value: dict[Any, list[Run]]) -> Choice:
    must_choose = len(by_value) > 1
    trials = tuple(
        Trial(value, tuple(tuned), mean(map(_held_out_top1, tuned)) if must_choose else None)
        for value, tuned in sorted(by_value.items(), key=lambda item: _order(item[0]))
    )
    able = [trial for trial in trials if len(trial.runs) >= _seeds_asked(trials)]
    return Choice(key, trials, max(able, key=lambda trial: trial.held_out or 0.0).value)


def _seeds_asked(trials: Sequence[Trial]) -> int:
    """Seeds that a value needs to be taken: one lucky seed is no better value."""
    return min(SEEDS_OF_AN_INTERVAL, max(len(trial.runs) for trial in trials))


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, (int, float))
    return not is_number, float(value) if is_number else 0.0, str(value)


def _held_out_top1(run: Run) -> float:
    """Top-1 on the held-out images of the last weights, the average's where there is one."""
    folder = run.path / HELD_OUT
    found, judged = read_top1(folder, "*-val.json"), read_step(folder, "*-val.json")
    if None not in (judged, run.last_step) and judged != run.last_step:
        raise ValueError(
            f"{folder} judges step {judged} of {run.path}, which has gone on to step {run.last_step}: to choose by its "
            f"last weights remove that folder and make it again: python eval.py checkpoint={run.path} data=... "
            f"data.root=... out={folder}"
        )
    if found is None:
        raise ValueError(
            f"{run.path}: no accuracy on held-out images to choose by in {folder}. Make it with: python eval.py "
            f"checkpoint={run.path} data=... data.root=... out={folder}"
        )
    return found
