"""All techniques of one setting in order of what they gain on plain: a table and a figure with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitaos.analysis.figures import new_figure
from vitaos.analysis.style import PAGE, color
from vitaos.study.budget_report import relative_cost
from vitaos.study.cells import Cell, Study
from vitaos.study.dose import DosePoint, DoseResponse
from vitaos.study.labels import (
    axis_label,
    blocks_text,
    decimals,
    file_stem,
    interval_text,
    is_lower_better,
    mean_text,
    metric_title,
    technique_title,
)
from vitaos.study.runs import PLAIN

__all__ = ["Leaderboard", "build_leaderboards", "draw_leaderboard", "markdown_of_leaderboard"]


@dataclass(frozen=True)
class Leaderboard:
    """The techniques that were compared with one plain cell, the best first.

    Attributes:
        model: backbone.
        data: dataset.
        depth: blocks; None where unknown.
        skip_gain: the dose; 1 is the ordinary network.
        plain: what they are compared with.
        points: two techniques at least.
    """

    model: str
    data: str
    depth: int | None
    skip_gain: float
    plain: Cell
    points: tuple[DosePoint, ...]

    @property
    def title(self) -> str:
        return f"{self.model} on {self.data}{blocks_text(self.depth)}, r = {self.skip_gain:g}"


def build_leaderboards(responses: Sequence[DoseResponse], metric: str) -> list[Leaderboard]:
    """One for every backbone, dataset, depth and dose at which plain and at least two techniques were compared."""
    boards = []
    for response in responses:
        for dose in response.doses:
            here = [point for point in response.points if point.skip_gain == dose]
            plain = next((point.cell for point in here if point.cell.technique == PLAIN), None)
            compared = [point for point in here if point.cell.difference is not None]
            if plain is not None and len(compared) > 1:
                compared.sort(key=_gain, reverse=not is_lower_better(metric))
                boards.append(Leaderboard(response.model, response.data, response.depth, dose, plain, tuple(compared)))
    return boards


def markdown_of_leaderboard(study: Study, board: Leaderboard) -> list[str]:
    """A row a technique: n, the metric, its difference to plain with three intervals, p (Welch's) and operations."""
    digits = decimals(study.metric)
    plain = board.plain
    lines = [
        f"## Leaderboard: {board.title}",
        "",
        *(["The lower, the better.", ""] if is_lower_better(study.metric) else []),
        f"| technique | n | {axis_label(study.metric)} | to plain | Welch 95% | seed by seed 95% | bootstrap 95% | "
        "p (Holm) | FLOP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for point in board.points:
        cell = point.cell
        cost = relative_cost(cell, plain)
        welch = cell.difference.interval if cell.difference else None
        row = [
            technique_title(cell.technique),
            str(len(cell.runs)),
            mean_text(cell.mean, cell.std, digits),
            f"{_gain(point):+.{digits}f}",
            "" if welch is None else interval_text(welch, digits),
            _seed_by_seed(point.paired, digits),
            "" if point.bootstrap is None else interval_text(point.bootstrap, digits),
            "" if point.p_value is None else f"{point.p_value:.2g}",
            "" if cost is None else f"x{cost:.3f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    row = ["plain", str(len(plain.runs)), mean_text(plain.mean, plain.std, digits), *[""] * 5, "x1"]
    return [*lines, "| " + " | ".join(row) + " |"]


def draw_leaderboard(study: Study, board: Leaderboard, folder: Path) -> Path:
    """Differences to plain, one row a technique: thick, Welch's interval over seeds; thin, the bootstrap's."""
    path = folder / f"leaderboard_{file_stem(board.model, board.data, depth=board.depth)}_r{board.skip_gain:g}.png"
    figure = new_figure((PAGE, 1.25 + 0.24 * len(board.points)))
    axes = figure.subplots()
    for row, point in enumerate(board.points):
        _draw_point(axes, row, point, color(study.techniques.index(point.cell.technique)))
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(board.points)), [_row_label(point) for point in board.points])
    axes.set_ylim(len(board.points) - 0.5, -0.5)
    digits = decimals(study.metric)
    reached = f"plain: {board.plain.mean:.{digits}f} (n = {len(board.plain.runs)})"
    axes.set_xlabel(f"difference of {metric_title(study.metric)} to {reached}")
    axes.set_title("\n".join([board.title, *_intervals_shown(board)]), loc="left")
    figure.savefig(path)
    return path


def _intervals_shown(board: Leaderboard) -> list[str]:
    """One line that explains the intervals of the figure, where it has any."""
    shown = [
        text
        for text, is_shown in (
            (
                "thick, over seeds",
                any(point.cell.difference and point.cell.difference.interval for point in board.points),
            ),
            ("thin, over images and seeds", any(point.bootstrap for point in board.points)),
        )
        if is_shown
    ]
    return [f"95% intervals: {'; '.join(shown)}"] if shown else []


def _draw_point(axes: Any, row: int, point: DosePoint, shade: str) -> None:
    difference = point.cell.difference
    welch = difference.interval if difference else None
    if welch is not None:
        axes.plot(welch, (row, row), color=shade, linewidth=3.5, alpha=0.35, solid_capstyle="butt")
    if point.bootstrap is not None:
        axes.plot(point.bootstrap, (row, row), color=shade, linewidth=0.9)
    axes.plot(_gain(point), row, "o", color=shade, markerfacecolor=shade if len(point.cell.runs) > 1 else "white")


def _gain(point: DosePoint) -> float:
    return point.cell.difference.value if point.cell.difference else float("nan")


def _seed_by_seed(paired: tuple[float, float] | None, digits: int) -> str:
    """The interval with its own middle: of the seeds that both have, which may be fewer than those of the mean."""
    return "" if paired is None else f"{sum(paired) / 2:+.{digits}f} {interval_text(paired, digits)}"


def _row_label(point: DosePoint) -> str:
    return f"{technique_title(point.cell.technique)} (n = {len(point.cell.runs)})"
