"""Report a study: ``python scripts/report.py runs='runs/depth_scaling/*'``.

Reads finished run folders and writes report.md, table.csv, runs.csv and figures: accuracy by depth and technique (mean,
standard deviation, n, difference to plain at the same depth with its 95% confidence interval), training curves, and the
published numbers, with their epochs, where the setting is the paper's. Runs are averaged only if nothing but the seed
differs, and compared only at equal epochs, images and cost; every budget is shown, and a leaderboard of the techniques.
"""

import glob
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitaos import cli
from vitaos.config import key


@dataclass
class ReportConfig:
    """Everything about a report."""

    runs: Any = key("runs/depth_scaling/*", "a pattern of run folders, or a list of them: [A,B]", is_path=True)
    metric: str = key("auto", "auto (top-1), or a key of metrics.jsonl")
    tolerance: float = key(
        0.2, "how much more than plain a technique may cost and still be compared; 0.2: a fifth", low=0, high=1e4
    )
    choose: str | None = key(
        None, "a key that each technique tuned, as recipe.lr: its best value on RUN/held_out/*-val.json is taken"
    )
    out: str | None = key(None, "folder of the report; null: beside the runs", is_path=True)


COMMAND = cli.Command("report", ReportConfig, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos import techniques
from vitaos.assembly.model_cost import ModelCosts
from vitaos.models import BACKBONES
from vitaos.study.cells import build_study
from vitaos.study.choice import Choice, choose_by_held_out
from vitaos.study.report import write_report
from vitaos.study.runs import read_runs


def main(config: ReportConfig) -> None:
    """One report: run folders -> cells of seeds -> tables and figures."""
    if config.runs is None:
        raise ValueError("runs=null: give a pattern of run folders, or a list of them")
    patterns = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    folders = {Path(path) for pattern in patterns for path in _matching(str(pattern))}
    technique_flags = techniques.names()
    runs, unreadable = read_runs(folders, technique_flags=technique_flags, identify=identify)
    for damaged in unreadable:
        print(f"damaged, left out: {damaged.path}: {damaged.reason}")
    if not runs:
        raise ValueError(f"runs={config.runs}: no readable run folder there (a run folder holds config.yaml)")
    choices: list[Choice] = []
    if config.choose is not None:
        runs, choices = choose_by_held_out(runs, config.choose)
    study = build_study(
        runs,
        technique_flags=technique_flags,
        metric=config.metric,
        unreadable=unreadable,
        cost_of=ModelCosts(),
        tolerance=config.tolerance,
        tuned=[config.choose] if config.choose else [],
    )
    study = replace(study, choices=tuple(choices))
    folder = "report" if config.metric == "auto" else f"report_{config.metric}"
    out = Path(config.out) if config.out else runs[0].path.parent / folder
    try:
        for path in write_report(study, out):
            print(path)
    except OSError as error:
        raise ValueError(f"out={out}: the report cannot be written: {error.strerror or error}") from error
    for run in study.unfinished:
        print(f"not finished, left out: {run.path}")


def identify(name: str) -> tuple[str, int | None]:
    """A model's name without its depth, and its depth: ``deit_s24`` is ``deit_s`` of 24; timm's names stay whole."""
    if name not in BACKBONES:
        return name, None
    keywords = BACKBONES[name].keywords
    digits = name[len(name.rstrip("0123456789")) :]
    depth = keywords.get("depth") or sum(keywords.get("depths", ())) or (int(digits) if digits else None)
    return name.removesuffix(digits), depth


def _matching(pattern: str) -> list[str]:
    return glob.glob(pattern)  # noqa: PTH207  # Path.glob takes no absolute patterns


if __name__ == "__main__":
    COMMAND.run(main)
