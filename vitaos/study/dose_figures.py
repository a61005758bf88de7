"""The figures of a dose-response: accuracy and token similarity against ``skip_gain``, and measures by block."""

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from matplotlib.lines import Line2D

from vitaos.analysis.measured import LEARNED
from vitaos.analysis.style import PAGE, color, legend_below, legend_height, line_style, look
from vitaos.study.choice import SEEDS_OF_AN_INTERVAL
from vitaos.study.dose import MONITORED, DosePoint, DoseResponse
from vitaos.study.labels import axis_label, technique_title
from vitaos.study.runs import PLAIN

__all__ = ["draw_by_block", "draw_learned", "draw_response", "figure_size", "learned_here"]


def figure_size(techniques: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches; the figures have their legend below."""
    return PAGE, 2.6 + legend_height([technique_title(name) for name in techniques], PAGE)


def draw_response(
    figure: Any, response: DoseResponse, techniques: Sequence[str], metric: str, *, tuned: str | None = None
) -> None:
    """Left: the metric by dose: mean, every seed, 95% interval from 3 seeds on. Right: similarity at the end.

    `tuned` is the key that every point has its own value of.
    """
    left, right = figure.subplots(1, 2)
    _draw_lines(left, response, techniques, lambda point: point.cell.mean, seeds=True)
    left.set_ylabel(axis_label(metric))
    seeds = sorted({len(point.cell.runs) for point in response.points})
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    bars = "; bars: 95%" if seeds[-1] >= SEEDS_OF_AN_INTERVAL else ""
    left.set_title(f"mean; dots: seeds (n = {count}){bars}", loc="left")
    _draw_lines(right, response, techniques, lambda point: point.after_last_block("token_similarity"))
    right.set_ylabel("token similarity, last block")
    which = ", mean over seeds" if tuned is None else f"; each at its own {tuned}"
    right.set_title(f"end of training{which}", loc="left")
    for axes in (left, right):
        axes.set_xlabel("skip gain r (1: the ordinary network)")
        axes.invert_xaxis()  # from the ordinary network to the collapsed one
    _legend(figure, response, techniques)


def draw_by_block(figure: Any, response: DoseResponse, techniques: Sequence[str]) -> None:
    """A row a measure, a column a dose: by block at the end of training; dashed, plain at its start."""
    doses = response.doses
    panels = figure.subplots(len(MONITORED), len(doses), sharex=True, sharey="row", squeeze=False)
    for row, (key, title) in enumerate(MONITORED.items()):
        for column, dose in enumerate(doses):
            axes = panels[row][column]
            for point in response.points:
                if point.skip_gain == dose:
                    _draw_blocks(axes, point, key, techniques.index(point.cell.technique))
            if row == 0:
                axes.set_title(f"r = {dose:g}")
        panels[row][0].set_ylabel(title)
    panels[-1][len(doses) // 2].set_xlabel("block (0: embedding)")  # once: side by side, each would overlap the next
    start = Line2D([], [], color="#555555", linestyle="--", linewidth=1)
    _legend(figure, response, techniques, extra=[(start, "plain at the start")])


def learned_here(response: DoseResponse) -> list[str]:
    """The learned parameters that any run of the response has."""
    return [name for name in LEARNED if any(point.learned(name) for point in response.points)]


def draw_learned(figure: Any, response: DoseResponse, techniques: Sequence[str]) -> None:
    """A panel each for w, s and t against the dose: mean over blocks and seeds; dots: the blocks."""
    names = learned_here(response)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    shown: list[str] = []
    for axes, name in zip(panels, names, strict=True):
        for index, technique in enumerate(techniques):
            found = [(point.skip_gain, values) for point in response.of(technique) if (values := point.learned(name))]
            if not found:
                continue
            shown += [technique]
            for dose, values in found:
                axes.plot([dose] * len(values), values, ".", color=color(index), markersize=2, alpha=0.5)
            axes.plot([dose for dose, _ in found], [mean(values) for _, values in found], **look(index))
        axes.axhline(0, color="#888888", linewidth=0.6, zorder=0)
        axes.set_ylabel(f"learned ${LEARNED[name]}$")
        axes.set_xlabel("skip gain r")
        axes.invert_xaxis()
    panels[0].set_title("mean over blocks and seeds; dots: blocks", loc="left")
    _legend(figure, response, techniques, of=shown)


def _draw_blocks(axes: Any, point: DosePoint, key: str, index: int) -> None:
    end = point.monitored(f"{key}_by_block")
    if end is not None:
        axes.plot(range(len(end)), end, color=color(index), linestyle=line_style(index), linewidth=1)
    start = point.monitored(f"initial_{key}_by_block") if point.cell.technique == PLAIN else None
    if start is not None:
        axes.plot(range(len(start)), start, color="#555555", linestyle="--", linewidth=1)


def _draw_lines(
    axes: Any,
    response: DoseResponse,
    techniques: Sequence[str],
    value: Callable[[DosePoint], float | None],
    *,
    seeds: bool = False,
) -> None:
    for index, name in enumerate(techniques):
        points = [(point, found) for point in response.of(name) if (found := value(point)) is not None]
        x, y = [point.skip_gain for point, _ in points], [found for _, found in points]
        axes.plot(x, y, **look(index))
        if not seeds:
            continue
        for point, _ in points:
            values = point.cell.values
            axes.plot([point.skip_gain] * len(values), values, "o", color=color(index), markersize=2, alpha=0.5)
            if len(values) >= SEEDS_OF_AN_INTERVAL:
                axes.errorbar(
                    point.skip_gain,
                    point.cell.mean,
                    yerr=point.half_width,
                    capsize=2,
                    elinewidth=0.8,
                    color=color(index),
                )


def _legend(
    figure: Any,
    response: DoseResponse,
    techniques: Sequence[str],
    *,
    of: Sequence[str] | None = None,
    extra: Sequence[tuple[Any, str]] = (),
) -> None:
    """The legend of all techniques of the response, or `of` some."""
    shown = [i for i, name in enumerate(techniques) if response.of(name) and (of is None or name in of)]
    handles: list[Any] = [Line2D([], [], **look(i)) for i in shown]
    labels = [technique_title(techniques[index]) for index in shown]
    legend_below(figure, [*handles, *(handle for handle, _ in extra)], [*labels, *(label for _, label in extra)])
