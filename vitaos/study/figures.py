"""The figures of a study: a metric by depth, and the training curves."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import Any, Final

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vitaos.analysis.style import COLUMN, PAGE, color, legend_below, legend_height, line_style, marker
from vitaos.study.cells import Cell, Study, depth_differences
from vitaos.study.labels import axis_label, technique_title
from vitaos.study.published import published_beside

__all__ = ["draw_by_depth", "draw_curves", "figure_size"]

PUBLISHED_LABEL: Final = "published (see its epochs)"
BAR_LABEL: Final = "± std over seeds"
BAND_LABEL: Final = "lowest to highest seed"
_MOST_MARKED: Final = 12  # epochs of a curve that are marked, so that rare evaluations are seen as such


def draw_by_depth(figure: Any, study: Study, cells: Sequence[Cell]) -> None:
    """Accuracy (or another metric) against depth: mean and standard deviation over seeds, hollow where published.

    A line joins two depths only where nothing else differs between them.
    """
    axes = figure.subplots()
    techniques = study.techniques
    depths = sorted({cell.depth or 0 for cell in cells})
    gap = min((after - before for before, after in pairwise(depths)), default=1)
    handles, shows_published = [], False
    for index, technique in enumerate(techniques):
        own = [cell for cell in cells if cell.technique == technique]
        if not own:
            continue
        shift = (0.03 if len(depths) > 1 else 0.1) * gap * (index - (len(techniques) - 1) / 2)
        x = [(cell.depth or 0) + shift for cell in own]
        look: dict[str, Any] = {"color": color(index), "marker": marker(index)}
        spread = [math.nan if cell.std is None else cell.std for cell in own]  # no bar for one run
        means = [cell.mean for cell in own]
        axes.errorbar(x, means, yerr=spread, capsize=2, elinewidth=0.8, linestyle="none", **look)
        for (shallow, deep), places, ends in zip(pairwise(own), pairwise(x), pairwise(means), strict=True):
            if not depth_differences(study, shallow, deep):  # a line would read as the effect of depth
                axes.plot(places, ends, color=color(index))
        for place, cell in zip(x, own, strict=True):
            value = published_beside(study.metric, cell)
            if value is not None:
                axes.plot(place, value.top1, linestyle="none", markerfacecolor="none", markersize=5, **look)
                shows_published = True
        handles.append((Line2D([], [], **look), technique_title(technique)))
    if shows_published:
        hollow = Line2D([], [], linestyle="none", marker="o", markerfacecolor="none", color="#555555")
        handles.append((hollow, PUBLISHED_LABEL))
    if len(depths) == 1:
        axes.set_xlim(depths[0] - 0.5, depths[0] + 0.5)
    axes.set_xticks(depths, [str(depth) if depth else "default" for depth in depths])
    axes.set_xlabel("depth (blocks)")
    axes.set_ylabel(axis_label(study.metric))
    if any(cell.std is not None for cell in cells):
        bar = Line2D([], [], linestyle="none", marker="|", markersize=7, color="#555555")
        handles.append((bar, BAR_LABEL))
    legend_below(figure, [handle for handle, _ in handles], [label for _, label in handles])


def draw_curves(figure: Any, study: Study, cells: Sequence[Cell]) -> None:
    """Accuracy and training loss by epoch: mean over seeds, band from the lowest to the highest; a column a depth."""
    techniques = study.techniques
    depths = sorted({cell.depth or 0 for cell in cells})
    panels = figure.subplots(2, len(depths), sharex="col", sharey="row", squeeze=False)
    for column, depth in enumerate(depths):
        for row, key in enumerate((study.metric, "train_loss")):
            axes = panels[row][column]
            for cell in cells:
                if (cell.depth or 0) == depth:
                    _plot_curve(axes, cell, key, techniques.index(cell.technique))
        panels[0][column].set_title(f"{depth} blocks" if depth else cells[0].model)
        panels[1][column].set_xlabel("epoch")
        panels[1][column].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel(axis_label(study.metric))
    panels[1][0].set_ylabel("training loss")
    shown = [index for index, name in enumerate(techniques) if any(cell.technique == name for cell in cells)]
    handles: list[Any] = [Line2D([], [], color=color(index), linestyle=line_style(index)) for index in shown]
    labels = [technique_title(techniques[index]) for index in shown]
    if any(len(cell.runs) > 1 for cell in cells):
        handles.append(Patch(facecolor="#555555", alpha=0.25))
        labels.append(BAND_LABEL)
    legend_below(figure, handles, labels)


def _plot_curve(axes: Any, cell: Cell, key: str, index: int) -> None:
    shade = color(index)
    by_epoch: dict[int, list[float]] = {}
    for run in cell.runs:
        for line in run.metrics:
            if isinstance(line.get(key), (int, float)):
                by_epoch.setdefault(int(line["epoch"]) + 1, []).append(float(line[key]))
    epochs = sorted(by_epoch)
    means = [mean(by_epoch[epoch]) for epoch in epochs]
    dots = marker(index) if len(epochs) <= _MOST_MARKED else ""
    axes.plot(epochs, means, color=shade, linestyle=line_style(index), linewidth=1, marker=dots)
    low, high = [min(by_epoch[epoch]) for epoch in epochs], [max(by_epoch[epoch]) for epoch in epochs]
    if low != high:
        axes.fill_between(epochs, low, high, color=shade, alpha=0.1, linewidth=0)
        for edge in (low, high):  # edges keep bands apart that lie on one another
            axes.plot(epochs, edge, color=shade, linestyle=line_style(index), linewidth=0.4, alpha=0.7)


def figure_size(kind: str, study: Study, cells: Sequence[Cell]) -> tuple[float, float]:
    """Width and height in inches of a figure: "curves", or a metric by depth."""
    labels = [technique_title(name) for name in study.techniques]
    if kind != "curves":
        return COLUMN, 2.3 + legend_height([*labels, PUBLISHED_LABEL, BAR_LABEL], COLUMN)
    width = min(PAGE, max(COLUMN, 1.0 + 1.6 * len({cell.depth for cell in cells})))
    return width, 3.4 + legend_height([*labels, BAND_LABEL], width)
