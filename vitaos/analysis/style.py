"""How every figure of the project looks: sizes of a paper's columns, colors apart for every kind of eyes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = [
    "COLUMN",
    "PAGE",
    "SEQUENTIAL",
    "color",
    "legend_below",
    "legend_columns",
    "legend_height",
    "line_style",
    "look",
    "marker",
    "shorten",
    "style",
]

COLUMN: Final = 3.4  # inches: one column of a two-column paper
PAGE: Final = 7.0  # inches: its full width
SEQUENTIAL: Final = "cividis"
# Okabe and Ito, "Color universal design", 2008; yellow last because thin yellow lines vanish on white.
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINE_STYLES: Final[tuple[Literal["-", ":", "-."], ...]] = ("-", ":", "-.")
_SETTINGS: Final[Any] = {  # matplotlib's type is the list of all its keys
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 250,
    "pdf.fonttype": 42,  # letters stay letters, as publishers ask
    "axes.prop_cycle": cycler(color=_COLORS),
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside: the settings hold here and nowhere else."""
    with mpl.rc_context(_SETTINGS):
        yield


def color(index: int) -> str:
    """Color of the run with this number, the same in every figure."""
    return _COLORS[index % len(_COLORS)]


def marker(index: int) -> str:
    """Marker of the run with this number, the same in every figure; a further shape after every round of colors."""
    return _MARKERS[(index + index // len(_COLORS)) % len(_MARKERS)]


def line_style(index: int) -> Literal["-", ":", "-."]:
    """Line style of the run with this number; another one after every round of colors."""
    return _LINE_STYLES[index // len(_COLORS) % len(_LINE_STYLES)]


def look(index: int) -> dict[str, Any]:
    """Color, marker and line style of the run with this number, as keywords of ``plot`` and of a legend's line."""
    return {"color": color(index), "marker": marker(index), "linestyle": line_style(index)}


def shorten(label: str, length: int = 40) -> str:
    """The label with its middle left out if it is longer than this."""
    keep = (length - 1) // 2
    return label if len(label) <= length else f"{label[:keep]}…{label[-keep:]}"


def log_scale(axes: Any) -> None:
    """Make the vertical axis logarithmic with plain numbers at enough of its ticks; call after plotting."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    if decades < 0.7:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    elif decades < 3:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if decades < 1.3 else (1, 2, 5)))
    if decades < 4:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_columns(labels: Sequence[str], width: float) -> int:
    """In how many columns a legend of these labels fits into a width (inches)."""
    widest = max((len(label) for label in labels), default=0) * 0.056 + 0.42
    return max(1, min(len(labels), int(width / widest)))


def legend_height(labels: Sequence[str], width: float) -> float:
    """Inches that the legend below a figure of this width takes."""
    return 0.14 * -(-len(labels) // legend_columns(labels, width)) + 0.08


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for the whole figure, below it, in as many columns as its width holds."""
    if handles:
        columns = legend_columns(labels, figure.bbox.width / figure.figure.dpi)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.2)
