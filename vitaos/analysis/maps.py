"""Figures of spectra and of similarities as matrices: small multiples over blocks, heat maps over runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from vitaos.analysis.curves import has_applied, head_gains
from vitaos.analysis.measured import Analysis, Array, AttentionMeasures, FeatureMeasures
from vitaos.analysis.spectrum import response_frequencies
from vitaos.analysis.style import SEQUENTIAL, color, legend_below, shorten

__all__ = [
    "PANEL_COLUMNS",
    "SPECTRUM_COLUMNS",
    "class_layers",
    "draw_class_attention",
    "draw_feature_spectrum",
    "draw_head_gain",
    "draw_map_similarity_matrix",
    "draw_response_heat_map",
    "run_panels",
    "square_layers",
    "visible",
]

SPECTRUM_COLUMNS = 6
PANEL_COLUMNS = 4
_EMPTY = "#EEEEEE"
_HALVES = ["\N{MINUS SIGN}½", "0", "½"]


def square_layers(run: Analysis) -> list[AttentionMeasures]:
    """The attention modules that have output frequencies: all but class attention."""
    return [row for row in run.attention if row.layer.kind != "class"]


def class_layers(run: Analysis) -> list[AttentionMeasures]:
    """The class-attention modules of a run."""
    return [row for row in run.attention if row.layer.kind == "class"]


def run_panels(analyses: Sequence[Analysis]) -> list[tuple[Analysis, bool]]:
    """One panel for every run's softmax maps and one more where AttnScale is applied: (run, applied)."""
    panels = []
    for run in analyses:
        panels.append((run, False))
        if any(row.applied is not None for row in run.attention):
            panels.append((run, True))
    return panels


def draw_response_heat_map(figure: Any, analyses: Sequence[Analysis]) -> None:
    """The same responses as one image a run: blocks down, frequencies across."""
    panels = run_panels(analyses)
    grids = [_response_grid(run, applied) for run, applied in panels]
    stacked = np.concatenate([grid.ravel() for grid in grids])
    low, high = _log_range(stacked)
    norm = LogNorm(low, high)
    all_axes = _panels(figure, panels)
    for axes, grid in zip(all_axes, grids, strict=True):
        image = axes.imshow(
            np.ma.masked_invalid(grid),
            aspect="auto",
            norm=norm,
            cmap=SEQUENTIAL,
            extent=(-0.5, 0.5, len(grid) + 0.5, 0.5),
            interpolation="nearest",
        )
        axes.set_xticks([-0.5, 0, 0.5], _HALVES)
        axes.set_xlabel("frequency (cycles per token)" if len(panels) < 3 else "cycles / token")
    bar = figure.colorbar(image, ax=all_axes, label="spectral response", pad=0.02, ticks=LogLocator(subs=(1, 2, 5)))
    bar.minorticks_off()
    if low > 1e-3:
        bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")


def draw_head_gain(figure: Any, analyses: Sequence[Analysis]) -> None:
    """High-frequency gain of every head: blocks down, heads across."""
    panels = run_panels(analyses)
    grids = [_head_grid(run, applied) for run, applied in panels]
    highest = max(float(np.nanmax(grid)) for grid in grids)
    all_axes = _panels(figure, panels)
    for axes, grid in zip(all_axes, grids, strict=True):
        heads = grid.shape[1]
        image = axes.imshow(
            np.ma.masked_invalid(grid),
            aspect="auto",
            vmin=0,
            vmax=highest,
            cmap=SEQUENTIAL,
            extent=(0.5, heads + 0.5, len(grid) + 0.5, 0.5),
            interpolation="nearest",
        )
        step = max(1, heads // 6)
        axes.set_xticks(range(1, heads + 1, step))
        axes.set_xlabel("head")
    figure.colorbar(image, ax=all_axes, label="high-frequency gain", pad=0.02)


def draw_map_similarity_matrix(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Cosine similarity of the attention maps of every pair of blocks; gray where maps cannot be compared."""
    all_axes = _panels(figure, [(run, False) for run in analyses])
    label = "cosine similarity" + (", without AttnScale" if has_applied(analyses) else "")
    lowest = min(0.0, *(float(np.nanmin(run.map_similarity)) for run in analyses))  # talking heads reach below 0
    for axes, run in zip(all_axes, analyses, strict=True):
        count = len(run.attention)
        image = axes.imshow(
            np.ma.masked_invalid(run.map_similarity),
            aspect="auto",
            vmin=lowest,
            vmax=1,
            cmap=SEQUENTIAL,
            extent=(0.5, count + 0.5, count + 0.5, 0.5),
            interpolation="nearest",
        )
        axes.set_xlabel("attention module")
        axes.set_ylabel("attention module" if axes.get_ylabel() else "")
        ticks = _ticks(count)
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
    figure.colorbar(image, ax=all_axes, label=label, pad=0.02)


def draw_feature_spectrum(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Amplitude spectra of the feature maps relative to zero frequency (DC): runs down, depth across."""
    panels = figure.subplots(len(analyses), SPECTRUM_COLUMNS, squeeze=False)
    relative = {id(row): _relative_log(row) for run in analyses for row in _chosen(run)}
    values = np.concatenate([grid.ravel() for grid in relative.values()])
    low, high = float(np.quantile(values, 0.01)), float(values.max())
    for line, run in zip(panels, analyses, strict=True):
        rows = _chosen(run)
        for axes, row in zip(line, rows, strict=False):
            image = axes.imshow(relative[id(row)], cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
            axes.set_title("input" if row.number == 0 else f"block {row.number}", pad=2, fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
        for axes in line[len(rows) :]:
            axes.set_visible(False)
        if len(analyses) > 1:
            line[0].set_ylabel(shorten(run.label, 18), fontsize=7)
    axis = "horizontal and vertical frequency of the map of tokens (cycles per token): 0 in the middle, ½ at the edges"
    figure.supxlabel(axis, fontsize=7)
    figure.colorbar(image, ax=list(panels.flat), label="log$_{10}$ amplitude / DC", pad=0.02)


def draw_class_attention(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Which frequencies of its input the class token listens to: one panel a class-attention block."""
    shown = [(index, run) for index, run in enumerate(analyses) if class_layers(run)]
    count = max(len(class_layers(run)) for _, run in shown)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for number, axes in enumerate(panels):
        for index, run in shown:
            layers = class_layers(run)
            if number < len(layers):
                row = layers[number]
                frequencies = response_frequencies(row.tokens).numpy()
                axes.plot(frequencies, visible(row.response.mean(axis=0)), color=color(index), linewidth=0.9)
        axes.set_ylim(bottom=0)
        axes.set_title(f"class-attention block {number + 1}")
        axes.set_xticks([-0.5, 0, 0.5], _HALVES)
        axes.set_xlabel("frequency (cycles per token)")
    panels[0].set_ylabel("amplitude $|a F^{-1}|$")
    handles = [Line2D([], [], color=color(index)) for index, _ in shown]
    legend_below(figure, handles, [shorten(run.label) for _, run in shown])


def _panels(figure: Any, panels: Sequence[tuple[Analysis, bool]]) -> list[Any]:
    """A panel a run, at most ``PANEL_COLUMNS`` in a row."""
    columns = min(len(panels), PANEL_COLUMNS)
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
    all_axes = list(grid.flat)
    for axes, (run, applied) in zip(all_axes, panels, strict=False):
        which = "" if not has_applied([run]) else "\nwith AttnScale" if applied else "\nwithout AttnScale"
        axes.set_title(shorten(run.label, 22) + which, fontsize=7)
        axes.set_facecolor(_EMPTY)
        axes.grid(visible=False)
        axes.set_yticks(_ticks(len(square_layers(run))))
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("block")
    return all_axes[: len(panels)]


def _ticks(count: int) -> list[int]:
    """Block numbers to label: all of up to 12, else 1 and the multiples of a step."""
    step = next(step for step in (1, 4, 6, 8, 12, 24, count) if count / step <= 12)
    return list(range(1, count + 1)) if step == 1 else [1, *range(step, count + 1, step)]


def _response_grid(run: Analysis, applied: bool) -> Array:
    """(blocks, frequencies), mean over heads, interpolated to the finest axis where stages differ in tokens."""
    layers = square_layers(run)
    finest = max(row.tokens for row in layers)
    axis = np.linspace(-0.5, 0.5, finest)
    rows = []
    for row in layers:
        response = row.applied if applied and row.applied is not None else row.response
        own = response_frequencies(row.tokens).numpy()
        rows.append(np.interp(axis, own, response.mean(axis=0)) if row.tokens != finest else response.mean(axis=0))
    return np.stack(rows)


def _head_grid(run: Analysis, applied: bool) -> Array:
    layers = square_layers(run)
    grid = np.full((len(layers), max(len(row.response) for row in layers)), np.nan)
    for line, row in zip(grid, layers, strict=True):
        gains = head_gains(row.applied if applied and row.applied is not None else row.response)
        line[: len(gains)] = gains
    return grid


def _chosen(run: Analysis) -> list[FeatureMeasures]:
    """Input, last block and what lies evenly between."""
    last = len(run.features) - 1
    picked = sorted({round(step * last / (SPECTRUM_COLUMNS - 1)) for step in range(SPECTRUM_COLUMNS)})
    return [run.features[index] for index in picked]


def _relative_log(row: FeatureMeasures) -> Array:
    rows, columns = row.grid
    amplitude = np.maximum(row.amplitude, np.finfo(np.float64).tiny)
    return np.asarray(np.log10(amplitude / amplitude[rows // 2, columns // 2]))


def visible(response: Array) -> Array:
    """Zeros left out of a logarithmic axis."""
    return np.where(response > 1e-12, response, np.nan)


def _log_range(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values) & (values > 1e-12)]
    low, high = float(finite.min()), float(finite.max())
    return low, max(high, low * 1.01)
