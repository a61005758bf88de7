"""The reliability diagram: accuracy against confidence, and how many images have which confidence."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitaos.analysis.figures import captioned_figure
from vitaos.analysis.style import COLUMN, color, shorten, style


class Bins(Protocol):
    """What is drawn; ``vitaos.engine.calibration.Calibration`` is one."""

    @property
    def images(self) -> int: ...
    @property
    def ece(self) -> float: ...
    @property
    def bin_count(self) -> NDArray[np.int64]: ...
    @property
    def bin_confidence(self) -> NDArray[np.float64]: ...
    @property
    def bin_accuracy(self) -> NDArray[np.float64]: ...


def save_reliability(found: Bins, path: Path, *, title: str) -> None:
    """Write the diagram as PNG; `title` stands below it with the number of images and the calibration error."""
    caption = (
        f"{shorten(title, 90)}: {found.images:,} images, ECE {100 * found.ece:.2f}% over {len(found.bin_count)} bins"
    )
    with style():
        figure, area = captioned_figure((COLUMN, 3.9), [caption])
        above, below = area.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_accuracy(above, found)
        _draw_counts(below, found)
        figure.savefig(path)


def _draw_accuracy(axes: Any, found: Bins) -> None:
    bins = len(found.bin_count)
    middles = (np.arange(bins) + 0.5) / bins
    filled = found.bin_count > 0
    accuracy, confidence = found.bin_accuracy[filled], found.bin_confidence[filled]
    axes.bar(middles[filled], accuracy, width=0.92 / bins, color=color(0), label="accuracy")
    # Hatched and without a face of its own: it lies over the bar where the model is right more often than it thinks.
    axes.bar(
        middles[filled], confidence - accuracy, bottom=accuracy, width=0.92 / bins, facecolor="none", hatch="/////",
        edgecolor=color(1), linewidth=0.6, label="gap to confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (4, 3)), label="perfect")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.legend(loc="upper left")


def _draw_counts(axes: Any, found: Bins) -> None:
    bins = len(found.bin_count)
    shares = 100 * found.bin_count / found.images
    axes.bar((np.arange(bins) + 0.5) / bins, shares, width=0.92 / bins, color=color(0))
    axes.set(xlabel="confidence", ylabel="images (%)")
