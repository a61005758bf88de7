"""Run folders as the tests of a study read them."""

from collections.abc import Callable
from pathlib import Path

from vitaos.study.budget import CostOf
from vitaos.study.cells import Study, build_study
from vitaos.study.runs import read_runs

TECHNIQUE_FLAGS = ["attnscale", "featscale", "contranorm"]
Write = Callable[..., Path]


def identify(name: str) -> tuple[str, int | None]:
    return (name[:-2], int(name[-2:])) if name.startswith("deit") else (name, None)


def study(folder: Path, metric: str = "auto", cost_of: CostOf | None = None) -> Study:
    runs, unreadable = read_runs(list(folder.iterdir()), technique_flags=TECHNIQUE_FLAGS, identify=identify)
    return build_study(runs, technique_flags=TECHNIQUE_FLAGS, metric=metric, unreadable=unreadable, cost_of=cost_of)
