"""The spectral response of every block's attention: one small panel a block, all runs in each."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from vitaos.analysis.curves import has_applied
from vitaos.analysis.maps import square_layers, visible
from vitaos.analysis.measured import Analysis, AttentionMeasures
from vitaos.analysis.spectrum import response_frequencies
from vitaos.analysis.style import PAGE, color, legend_below, legend_height, shorten

__all__ = ["curve_labels", "draw_response", "response_size"]

_COLUMNS: Final = 6
_HALVES: Final = ["\N{MINUS SIGN}½", "0", "½"]


def draw_response(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Spectral response of every block's attention, mean over heads, one small panel a block."""
    labels = curve_labels(analyses)
    count = max(len(square_layers(run)) for run in analyses)
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw=_margins(figure, labels, rows))
    for number, axes in enumerate(panels.flat):
        axes.set_in_layout(False)
        if number >= count:
            axes.set_visible(False)
            continue
        for index, run in enumerate(analyses):
            layers = square_layers(run)
            if number < len(layers):
                _response_curve(axes, layers[number], color(index))
        axes.set_yscale("log")
        axes.set_title(f"block {number + 1}", pad=2, fontsize=7)
        axes.set_xticks([-0.5, 0, 0.5], _HALVES)
        lowest = number + columns >= count
        axes.tick_params(labelbottom=lowest, labelleft=number % columns == 0)
        axes.set_xlabel("cycles / token" if lowest else "", fontsize=7)
    _share_log_axis(panels.flat[:count], columns)
    figure.supylabel("spectral response (row norm)", fontsize=8)
    handles = [Line2D([], [], color=color(index)) for index in range(len(analyses))]
    if has_applied(analyses):
        handles.append(Line2D([], [], color="#555555", linestyle="--"))
    legend_below(figure, handles, labels)


def curve_labels(analyses: Sequence[Analysis]) -> list[str]:
    """The legend of a figure with a curve for each run."""
    return [*(shorten(run.label) for run in analyses), *(["without AttnScale"] if has_applied(analyses) else [])]


def response_size(analyses: Sequence[Analysis]) -> tuple[float, float]:
    """Inches that :func:`draw_response` takes."""
    rows = -(-max(len(square_layers(run)) for run in analyses) // _COLUMNS)
    return PAGE, 0.5 + 0.95 * rows + legend_height(curve_labels(analyses), PAGE)


def _margins(figure: Any, labels: Sequence[str], rows: int) -> dict[str, float]:
    """Where the panels lie, in parts of the figure: to measure the text of so many panels takes most of a second."""
    width, height = figure.bbox.width / figure.figure.dpi, figure.bbox.height / figure.figure.dpi
    left, right, top, between = 0.55, 0.1, 0.2, 0.25
    bottom = 0.4 + legend_height(labels, width)
    panel = (height - top - bottom - between * (rows - 1)) / rows
    return {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
        "hspace": between / panel,
        "wspace": 0.2,
    }


def _share_log_axis(panels: Sequence[Any], columns: int) -> None:
    """Give these panels one range of at least a power of ten; unlabeled ticks, slow to draw, in the first column."""
    ranges = [axes.get_ylim() for axes in panels]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1:  # fewer than two powers of ten to label
        low, high = 10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high))
    for number, axes in enumerate(panels):
        axes.set_ylim(low, high)
        if number % columns:
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())


def _response_curve(axes: Any, row: AttentionMeasures, shade: str) -> None:
    frequencies = response_frequencies(row.tokens).numpy()
    softmax = visible(row.response.mean(axis=0))
    if row.applied is None:
        axes.plot(frequencies, softmax, color=shade, linewidth=0.9)
    else:
        axes.plot(frequencies, softmax, color=shade, linewidth=0.7, linestyle="--")
        axes.plot(frequencies, visible(row.applied.mean(axis=0)), color=shade, linewidth=0.9)
