"""A depth-scaling study as Markdown, CSV and figures."""

import csv
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vitaos.analysis.figures import new_figure
from vitaos.analysis.style import style
from vitaos.study.budget_report import budget_columns, markdown_of_budgets
from vitaos.study.cells import Cell, Study, depth_differences
from vitaos.study.choice_report import draw_choices, markdown_of_choices
from vitaos.study.dose import DoseResponse, build_dose_responses
from vitaos.study.dose_report import dose_rows, draw_dose_figures, markdown_of_dose
from vitaos.study.figures import draw_by_depth, draw_curves, figure_size
from vitaos.study.labels import (
    axis_label,
    decimals,
    file_stem,
    interval_text,
    mean_text,
    metric_column,
    metric_title,
    technique_title,
)
from vitaos.study.leaderboard import (
    Leaderboard,
    build_leaderboards,
    draw_leaderboard,
    markdown_of_leaderboard,
)
from vitaos.study.published import SOURCE, published_beside
from vitaos.study.runs import PLAIN, Run

__all__ = ["write_report"]


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write ``report.md``, ``table.csv`` (a row a cell), ``runs.csv`` (a row a run) and the figures; ``dose.csv`` too
    where runs differ in ``skip_gain``, and a leaderboard wherever two techniques were compared with plain.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in ("report.md", "table.csv", "runs.csv")]
    figures = []
    settings = build_dose_responses(study)
    responses = [response for response in settings if len(response.doses) > 1]
    by_response: list[tuple[DoseResponse, list[Path]]] = []
    by_board: list[tuple[Leaderboard, Path]] = []
    with style():
        for model, data in _families(study):
            cells = [cell for cell in study.cells if (cell.model, cell.data) == (model, data)]
            for kind, draw in ((metric_column(study.metric), draw_by_depth), ("curves", draw_curves)):
                figures.append(folder / f"{kind}_{file_stem(model, data)}.png")
                figure = new_figure(figure_size(kind, study, cells))
                draw(figure, study, cells)
                figure.savefig(figures[-1])
        by_response = [(response, draw_dose_figures(study, response, folder)) for response in responses]
        tried = draw_choices(study, folder)
        boards = build_leaderboards(settings, study.metric)
        by_board = [(board, draw_leaderboard(study, board, folder)) for board in boards]
    written[0].write_text(_markdown(study, figures, by_response, by_board, tried), encoding="utf-8")
    _write_rows(written[1], list(_table_rows(study)))
    _write_rows(written[2], [_run_row(study, cell, run) for cell in study.cells for run in cell.runs])
    if responses:
        written.append(folder / "dose.csv")
        _write_rows(written[-1], [row for response in responses for row in dose_rows(study, response)])
    by_dose = [file for _, files in by_response for file in files]
    return [*written, *figures, *by_dose, *(file for _, file in by_board), *tried]


def _markdown(
    study: Study,
    figures: Sequence[Path],
    by_response: Sequence[tuple[DoseResponse, Sequence[Path]]],
    by_board: Sequence[tuple[Leaderboard, Path]],
    tried: Sequence[Path],
) -> str:
    lines = [
        "# Study",
        "",
        f"{axis_label(study.metric)} of the last epoch; mean ± standard deviation over n seeds.",
        "Difference: to plain at the same depth, with the 95% confidence interval of Welch's t.",
    ]
    for response, files in by_response:
        lines += ["", *markdown_of_dose(study, response), "", *(f"![{file.stem}]({file.name})" for file in files)]
    for board, file in by_board:
        lines += ["", *markdown_of_leaderboard(study, board), "", f"![{file.stem}]({file.name})"]
    for model, data in _families(study):
        cells = [cell for cell in study.cells if (cell.model, cell.data) == (model, data)]
        has_published = any(published_beside(study.metric, cell) is not None for cell in cells)
        lines += ["", f"## {model} on {data}", "", *_overview(study, cells), "", *_table(study, cells, has_published)]
        if has_published:
            lines += ["", f"Published: {SOURCE}."]
        lines += list(_depth_notes(study, cells))
        for figure in figures:
            if figure.stem.endswith(f"_{file_stem(model, data)}"):
                lines += ["", f"![{figure.stem}]({figure.name})"]
    lines += ["", *markdown_of_budgets(study)]
    if tried:
        lines += ["", *markdown_of_choices(study), *(f"\n![{file.stem}]({file.name})" for file in tried)]
    if study.notes:
        lines += ["", "## Not compared", "", *(f"- {note}" for note in study.notes)]
    if study.unfinished:
        lines += ["", "## Not finished, left out", "", *(f"- {_progress(run)}" for run in study.unfinished)]
    if study.unreadable:
        damaged = (f"- {run.path.name}: {run.reason}" for run in study.unreadable)
        lines += ["", "## Not readable, left out", "", *damaged]
    lines += ["", "## Runs", "", "| run | seed | " + metric_title(study.metric) + " | epochs | hardware | command |"]
    lines += ["|---|---|---|---|---|---|"]
    for cell in study.cells:
        for run in cell.runs:
            row = _run_row(study, cell, run)
            keys = ("run", "seed", metric_column(study.metric), "epochs", "hardware", "command")
            lines.append("| " + " | ".join(str(row[key]).replace("|", "\\|") for key in keys) + " |")
    return "\n".join(lines) + "\n"


def _depth_notes(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    """Which depths are not to be compared, since their runs differ in more than the depth."""
    found = set()
    for technique in study.techniques:
        own = [cell for cell in cells if cell.technique == technique]
        for shallow, deep in pairwise(own):
            differing = depth_differences(study, shallow, deep)
            if differing and (shallow.depth, deep.depth) not in found:
                found.add((shallow.depth, deep.depth))
                yield ""
                depths = f"{shallow.depth} and {deep.depth} blocks"
                yield f"{depths} are not to be compared, and no line joins them: {differing}."


def _overview(study: Study, cells: Sequence[Cell]) -> list[str]:
    """A row a depth, a column a technique."""
    techniques = [name for name in study.techniques if any(cell.technique == name for cell in cells)]
    lines = [
        "| blocks | " + " | ".join(technique_title(name) for name in techniques) + " |",
        "|---" * (1 + len(techniques)) + "|",
    ]
    for depth in dict.fromkeys(cell.depth for cell in cells):
        by_technique = {cell.technique: _mean(study, cell) for cell in cells if cell.depth == depth}
        row = [str(depth or "default"), *(by_technique.get(name, "") for name in techniques)]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _mean(study: Study, cell: Cell) -> str:
    return mean_text(cell.mean, cell.std, decimals(study.metric))


def _table(study: Study, cells: Sequence[Cell], has_published: bool) -> list[str]:
    digits = decimals(study.metric)
    lines = [
        "| depth | technique | n | mean ± std | difference to plain |" + (" published |" if has_published else ""),
        "|---|---|---|---|---|" + ("---|" if has_published else ""),
    ]
    for cell in cells:
        row = f"| {cell.depth or ''} | {technique_title(cell.technique)} | {len(cell.runs)} | {_mean(study, cell)} "
        row += f"| {_difference(cell, digits)} |"
        if has_published:
            value = published_beside(study.metric, cell)
            row += f" {'' if value is None else value.beside(cell.budget.epochs)} |"
        lines.append(row)
    return lines


def _difference(cell: Cell, digits: int) -> str:
    if cell.difference is None:
        return "" if cell.technique == PLAIN else "not compared"
    value, interval = cell.difference.value, cell.difference.interval
    if interval is None:
        return f"{value:+.{digits}f} ({'n too small' if len(cell.runs) < 2 else 'too little spread'} for an interval)"
    return f"{value:+.{digits}f} {interval_text(interval, digits)}"


def _table_rows(study: Study) -> Iterator[dict[str, Any]]:
    for cell in study.cells:
        difference = cell.difference
        low, high = (difference and difference.interval) or (None, None)
        beside = published_beside(study.metric, cell)
        yield {
            "model": cell.model,
            "data": cell.data,
            "depth": cell.depth,
            "technique": cell.technique,
            "metric": study.metric,
            "n": len(cell.runs),
            "mean": cell.mean,
            "std": cell.std,
            "difference": difference and difference.value,
            "interval_low": low,
            "interval_high": high,
            "published": beside and beside.top1,
            "published_epochs": beside and beside.epochs,
            **budget_columns(cell.budget),
        }


def _run_row(study: Study, cell: Cell, run: Run) -> dict[str, Any]:
    hardware = run.session.get("hardware") or {}
    gpus = hardware.get("gpus") or []
    names = sorted({str(gpu.get("name", gpu)) if isinstance(gpu, dict) else str(gpu) for gpu in gpus})
    on = f"{len(gpus)} x {', '.join(names)}" if gpus else f"{hardware.get('cpus', '?')} cores {hardware.get('cpu', '')}"
    return {
        "run": run.path.name,
        "model": cell.model,
        "data": cell.data,
        "depth": cell.depth,
        "technique": cell.technique,
        "seed": run.seed,
        metric_column(study.metric): f"{cell.values[cell.runs.index(run)]:.{decimals(study.metric)}f}",
        "epochs": run.epochs_done,
        "hardware": on.strip() if hardware else "",
        "commit": (run.session.get("code") or {}).get("commit") or "",
        "command": _command(run),
    }


def _command(run: Run) -> str:
    """The command line as typed, without the place of the interpreter."""
    arguments = str(run.session.get("command", "")).split()
    start = next((index for index, argument in enumerate(arguments) if Path(argument).name == "train.py"), 0)
    return " ".join([*(Path(argument).name for argument in arguments[start : start + 1]), *arguments[start + 1 :]])


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _families(study: Study) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell.model, cell.data) for cell in study.cells))


def _progress(run: Run) -> str:
    return f"{run.path.name}: {run.epochs_done} of {run.config.get('epochs', '?')} epochs"
