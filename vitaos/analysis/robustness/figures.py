"""One figure for every robustness test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitaos.analysis.figures import captioned_figure
from vitaos.analysis.robustness.table import Table
from vitaos.analysis.style import COLUMN, PAGE, color, legend_below, legend_height, marker, style

Rows = Sequence[Any]


def save_figure(table: Table, path: Path, caption: Sequence[str]) -> None:
    """Draw a test's table into a PNG, with lines of small print below."""
    size, draw = _FIGURES[table.test]
    with style():
        figure, area = captioned_figure(size(table.rows), caption)
        draw(area, table.rows)
        figure.savefig(path)


def _draw_shifts(figure: Any, rows: Rows) -> None:
    """Consistency against shift; dashed with anchoring."""
    axes = figure.subplots()
    handles, labels = [], []
    for index, kind in enumerate(("circular", "cropped")):
        for anchored in sorted({row["anchored"] for row in rows}):
            chosen = [row for row in rows if row["kind"] == kind and row["anchored"] == anchored]
            look: dict[str, Any] = {
                "color": color(index),
                "marker": marker(index),
                "linestyle": "--" if anchored else "-",
            }
            look["markerfacecolor"] = "white" if anchored else color(index)
            axes.plot([row["shift"] for row in chosen], [row["consistency"] for row in chosen], **look)
            handles.append(Line2D([], [], **look))
            labels.append(kind + (", anchored" if anchored else ""))
    axes.set_xlabel("shift to the right and down (pixels)")
    axes.set_ylabel("answers that stay (%)")
    axes.set_ylim(top=101)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, handles, labels)


def _draw_patches(figure: Any, rows: Rows) -> None:
    """Accuracy against the number of perturbed patches."""
    axes = figure.subplots()
    handles, labels = [], []
    for index, kind in enumerate(dict.fromkeys(row["kind"] for row in rows)):
        chosen = [row for row in rows if row["kind"] == kind]
        look: dict[str, Any] = {"color": color(index), "marker": marker(index)}
        axes.plot([row["patches"] for row in chosen], [row["top1"] for row in chosen], **look)
        handles.append(Line2D([], [], **look))
        labels.append(kind)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["patches"] for row in rows}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("perturbed patches of an image")
    axes.set_ylabel("top-1 (%)")
    legend_below(figure, handles, labels)


def _draw_temperatures(figure: Any, rows: Rows) -> None:
    """Accuracy against the softmax temperature."""
    axes = figure.subplots()
    temperatures = [row["temperature"] for row in rows]
    axes.axvline(1, color="#888888", linewidth=0.6, zorder=0)
    axes.plot(temperatures, [row["top1"] for row in rows], color=color(0), marker=marker(0))
    axes.set_xscale("log", base=2)
    axes.set_xticks(temperatures)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("softmax temperature (1: as trained)")
    axes.set_ylabel("top-1 (%)")


def _draw_heads(figure: Any, rows: Rows) -> None:
    """Loss that every head's ablation adds, block by block."""
    modules = list(dict.fromkeys(row["module"] for row in rows))
    heads = max(row["head"] for row in rows)
    grid = np.full((len(modules), heads), np.nan)
    for row in rows:
        grid[modules.index(row["module"]), row["head"] - 1] = row["loss_rise"]
    axes = figure.subplots()
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    image = axes.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_yticks(range(len(modules)), _block_names(rows, modules))
    axes.set_xticks(range(heads), [str(head + 1) for head in range(heads)])
    axes.set_xlabel("head")
    axes.set_ylabel("block")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="loss added")


def _draw_distances(figure: Any, rows: Rows) -> None:
    """Distance of every head against depth, and the mean over heads."""
    axes = figure.subplots()
    modules = list(dict.fromkeys(row["module"] for row in rows))
    for row in rows:
        axes.plot(modules.index(row["module"]) + 1, row["distance"], ".", color=color(0), alpha=0.5, markersize=5)
    means = [np.mean([row["distance"] for row in rows if row["module"] == module]) for module in modules]
    axes.plot(range(1, len(modules) + 1), means, color=color(1), marker=marker(1))
    axes.set_ylim(0, 1.08 * max(row["distance"] for row in rows))
    axes.set_xlabel("block")
    axes.set_ylabel("attention distance (pixels)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=2))
    dots = Line2D([], [], linestyle="none", marker=".", color=color(0), markersize=5)
    legend_below(figure, [dots, Line2D([], [], color=color(1), marker=marker(1))], ["a head", "mean over heads"])


def _draw_registers(figure: Any, rows: Rows) -> None:
    """Accuracy, and lengths of patches and register, against the number of register neurons."""
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = range(len(rows))
    upper.plot(places, [row["top1"] for row in rows], color=color(0), marker=marker(0))
    upper.set_ylabel("top-1 (%)")
    handles = []
    for index, name in enumerate(("longest_patch", "register")):
        look: dict[str, Any] = {"color": color(index + 1), "marker": marker(index + 1)}
        chosen = [place for place in places if rows[place][name] != ""]
        lower.plot(chosen, [rows[place][name] for place in chosen], **look)
        handles.append(Line2D([], [], **look))
    lower.axhline(1, color="#888888", linewidth=0.6, zorder=0)
    lower.set_ylabel("norm / median patch")
    lower.set_ylim(0, 1.1 * max(float(row[name] or 0) for row in rows for name in ("longest_patch", "register")))
    if len(rows) == 1:
        lower.set_title("no patch is long: there is nothing to move", fontsize="small", loc="left")
    lower.set_xticks(list(places), [f"{row['neurons']}" for row in rows])
    lower.set_xlabel("register neurons (0: the model as it is)")
    legend_below(figure, handles, ["longest patch", "test-time register"])


def _block_names(rows: Rows, modules: Sequence[str]) -> list[str]:
    kinds = {row["module"]: row["kind"] for row in rows}
    numbers = {row["module"]: row["block"] for row in rows}
    return [f"class {numbers[module]}" if kinds[module] == "class" else str(numbers[module]) for module in modules]


def _column(labels: Sequence[str] = ()) -> Callable[[Rows], tuple[float, float]]:
    return lambda _: (COLUMN, 2.2 + (legend_height(labels, COLUMN) if labels else 0))


def _matrix(rows: Rows) -> tuple[float, float]:
    heads, modules = max(row["head"] for row in rows), len({row["module"] for row in rows})
    return min(PAGE, max(COLUMN, 1.6 + 0.28 * heads)), 1.0 + 0.16 * max(modules, 8)


_FIGURES: Final[dict[str, tuple[Callable[[Rows], tuple[float, float]], Callable[[Any, Rows], None]]]] = {
    "shift": (_column(["circular, anchored"] * 4), _draw_shifts),
    "patches": (_column(["other image"] * 4), _draw_patches),
    "temperature": (_column(), _draw_temperatures),
    "heads": (_matrix, _draw_heads),
    "registers": (lambda _: (COLUMN, 3.4 + legend_height(["test-time register"] * 2, COLUMN)), _draw_registers),
    "distance": (_column(["mean over heads"] * 2), _draw_distances),
}
