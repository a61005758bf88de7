"""``suite=all``: a checkpoint on ImageNet and all its relatives, in one table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vitaos.assembly import corrupted, imagenet
from vitaos.assembly.corrupted import Corrupted, CorruptionReport
from vitaos.assembly.eval_target import EvalTarget, build_loader
from vitaos.assembly.evaluation_report import Report, described, results_folder, results_stem, write_rows
from vitaos.assembly.judge import Judges, Judgment, answer_names
from vitaos.config import ConfigError, DataConfig, EvalConfig
from vitaos.data import EvalLoader
from vitaos.runtime.world import World
from vitaos.suggest import did_you_mean

DATASETS: Final = ("val", "real", "v2", "a", "r", "sketch", "c")
COLUMNS: Final = ("dataset", "weights", "images", "classes", "top1", "top5", "loss", "ece", "mce")


@dataclass(frozen=True)
class _Opened:
    """A dataset that is ready to be judged on."""

    config: EvalConfig
    target: EvalTarget
    loader: EvalLoader
    classes: imagenet.Classes
    real_labels: list[list[int]] | None

    def judge(self, judges: Judges) -> dict[str, Judgment]:
        return judges.judge(self.loader, self.classes, self.real_labels)


def evaluate(config: EvalConfig, target: EvalTarget, world: World) -> "SuiteReport":
    """Judge on every dataset that ``data.roots`` names; all are opened first, so that a mistake costs nothing.

    Raises:
        ValueError: no folder is named, or one cannot be used.
    """
    _check_roots(target.data.roots)
    sources = {name: data for name in DATASETS if (data := _source(config, target.data, name)) is not None}
    if not sources:
        raise ValueError("suite=all: no dataset is named; give data.roots={val: DIR, v2: DIR, ...}")
    if train := target.data.roots.get("train"):
        target = replace(target, data=replace(target.data, train=train))
    with ExitStack() as stack:
        known = answer_names(config, target, world)
        opened, absent = {}, {name: "no folder in data.roots" for name in DATASETS if name not in sources}
        for name, data in sources.items():
            if name == "c":
                continue
            try:
                found = _open(config, replace(target, data=data), name, known, world)
                opened[name] = stack.enter_context(found)
            except ValueError as error:
                if name != "real" or name in target.data.roots:
                    raise ValueError(f"data.roots.{name}: {error}") from error
                absent[name] = str(error)
        images = _corruptions(config, target, sources.get("c"), known, world)
        met = {name: item.classes for name, item in opened.items()} | ({"c": images.classes} if images else {})
        answers = {classes.answers for classes in met.values()}
        if len(answers) != 1:
            raise ValueError(
                f"suite=all: the datasets ask for models of different numbers of classes, {sorted(answers)}"
            )
        judges = Judges(config, target, min(answers), world)
        judgments = {name: item.judge(judges) for name, item in opened.items()}
        reports: dict[str, Report | CorruptionReport] = {
            name: Report(item.config, item.target, item.loader.class_names, judgments[name])
            for name, item in opened.items()
        }
        if images is not None:
            reports["c"] = CorruptionReport(replace(config, dataset="c"), images.target, images.judge(judges, world))
    return SuiteReport(config, target, reports, {name: classes.classes for name, classes in met.items()}, absent)


class SuiteReport:
    """The outcome on every dataset as one table; each also has its own files.

    Args:
        config, target: the evaluation's.
        reports: by dataset.
        classes: of the images of each dataset.
        absent: why a dataset was not judged on.
    """

    def __init__(
        self,
        config: EvalConfig,
        target: EvalTarget,
        reports: Mapping[str, Report | CorruptionReport],
        classes: Mapping[str, int],
        absent: Mapping[str, str],
    ) -> None:
        self.config, self.target, self.reports = config, target, reports
        self._classes, self._absent = classes, absent

    def rows(self) -> list[dict[str, Any]]:
        """A row for each dataset and kind of weights."""
        rows = []
        for name, report in self.reports.items():
            for weights, measures in report.summary()["weights"].items():
                rows.append(
                    {
                        "dataset": name,
                        "weights": weights,
                        "images": measures["count"],
                        "classes": self._classes[name],
                        **{key: measures[key] for key in ("top1", "top5", "loss")},
                        "ece": 100 * measures["calibration"]["ece"] if "calibration" in measures else None,
                        "mce": measures.get("mce"),
                    }
                )
        return rows

    def table(self) -> str:
        """One line a dataset and kind of weights, then what was left out."""
        lines = [f"{self.target.path}: every dataset (accuracies and errors in per cent)"]
        lines.append("  ".join(f"{column:>9}" for column in COLUMNS))
        for row in self.rows():
            lines.append("  ".join(f"{_text(row[column]):>9}" for column in COLUMNS))
        lines += [f"not judged on {name}: {reason}" for name, reason in self._absent.items()]
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """What ``suite.json`` holds: the rows, and under ``datasets`` the whole report of each."""
        rows = self.rows()
        first = {key: rows[0][key] for key in ("top1", "top5", "loss")} | {"count": rows[0]["images"]}
        return {
            **described(self.config, self.target),
            "suite": self.config.suite,
            **first,
            "rows": rows,
            "absent": dict(self._absent),
            "datasets": {name: report.summary() for name, report in self.reports.items()},
        }

    def write(self) -> list[Path]:
        """The files of every dataset, then the suite's JSON and CSV."""
        written = [path for report in self.reports.values() for path in report.write()]
        stem = results_stem(self.config, self.target, "suite")
        folder = results_folder(self.config, self.target)
        summary, table = folder / f"{stem}.json", folder / f"{stem}.csv"
        summary.write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        rows: list[Sequence[Any]] = [COLUMNS]
        write_rows(table, [*rows, *([row[column] for column in COLUMNS] for row in self.rows())])
        return [*written, summary, table]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _check_roots(roots: Mapping[str, str]) -> None:
    for name, root in roots.items():
        known = ("train", *DATASETS)
        if name not in known:
            raise ConfigError(
                f"data.roots.{name}: no such dataset{did_you_mean(name, known)} Valid: {', '.join(known)}"
            )
        if not root or not Path(root).expanduser().exists():
            raise ConfigError(f"data.roots.{name}={root}: nothing is there")


def _source(config: EvalConfig, data: DataConfig, name: str) -> DataConfig | None:
    """Where a dataset lies; None where nothing says it.

    ReaL and corruptions made on the fly look at the images of val.
    """
    of_val = name in {"val", "real"} or (name == "c" and config.corrupt)
    root = data.roots.get(name) or (data.roots.get("val") if of_val else None)
    if root is not None:
        path = str(Path(root).expanduser())
        kind = "ffcv" if path.endswith(".beton") else "folder"
        return replace(data, kind=kind, val=path)
    has_own = data.val is not None or data.root is not None or data.kind == "digits"
    return data if of_val and has_own else None


@contextmanager
def _open(
    config: EvalConfig, target: EvalTarget, name: str, known: list[str] | None, world: World
) -> Iterator[_Opened]:
    with closing(build_loader(config, target, world)) as loader:
        classes = imagenet.match_classes(name, known, loader.class_names, target.file)
        labels = imagenet.real_labels(loader.file_names(), config.real_labels) if name == "real" else None
        yield _Opened(replace(config, dataset=name, suite=None), target, loader, classes, labels)


def _corruptions(
    config: EvalConfig, target: EvalTarget, data: DataConfig | None, known: list[str] | None, world: World
) -> Corrupted | None:
    if data is None:
        return None
    try:
        return corrupted.prepare(config, replace(target, data=data), known, world)
    except ValueError as error:
        raise ValueError(f"data.roots.c: {error}") from error
