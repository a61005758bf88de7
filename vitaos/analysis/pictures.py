"""Figures as pictures: each drawn once, written as PNG, and put together on one page without drawing it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vitaos.analysis.style import COLUMN

__all__ = ["DOTS", "PAGE_DOTS", "Panel", "Picture", "draw_page", "draw_picture", "save_picture"]

Picture = NDArray[np.uint8]  # (height, width, 3)
DOTS: Final = 250
"""Pixels an inch of a figure."""
PAGE_DOTS: Final = 150
"""Pixels an inch of a page of figures, which is looked at as a whole."""
_PAGE_WIDTH: Final = 3 * COLUMN
_TITLE: Final = 0.3  # inches, above every figure of a page
_LARGEST: Final = DOTS / PAGE_DOTS  # by how much a figure may grow on a page: as far as it has pixels


@dataclass(frozen=True)
class Panel:
    """A figure on a page.

    Attributes:
        title: above it.
        picture: the figure, `DOTS` pixels an inch.
    """

    title: str
    picture: Picture

    @property
    def width(self) -> float:
        """In inches."""
        return self.picture.shape[1] / DOTS

    @property
    def height(self) -> float:
        """In inches."""
        return self.picture.shape[0] / DOTS


def draw_picture(figure: Figure, dots: int = DOTS) -> Picture:
    """A figure in pixels, `dots` an inch; ``Figure.savefig`` draws twice to find a layout."""
    figure.dpi = dots
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_picture(picture: Picture, path: Path, dots: int = DOTS) -> None:
    """Write a picture as PNG, with its size on paper; packed for two thirds of the time and a twentieth more bytes."""
    Image.fromarray(picture).save(path, dpi=(dots, dots), compress_level=3)


def draw_page(panels: Sequence[Panel], foot: Picture) -> Picture:
    """All panels in rows as wide as three columns of a paper, each with its title, and a foot below.

    Args:
        panels: in the order of reading.
        foot: `PAGE_DOTS` pixels an inch, no wider than the page.

    Returns:
        `PAGE_DOTS` pixels an inch.
    """
    rows = _rows(panels)
    scales = [min(_LARGEST, _PAGE_WIDTH / sum(panel.width for panel in row)) for row in rows]
    heights = [
        _pixels(_TITLE + scale * max(panel.height for panel in row)) for row, scale in zip(rows, scales, strict=True)
    ]
    page = np.full((sum(heights) + len(foot), _pixels(_PAGE_WIDTH), 3), 255, np.uint8)
    titles = Figure(figsize=(page.shape[1] / PAGE_DOTS, page.shape[0] / PAGE_DOTS))
    top = 0
    for row, scale, height in zip(rows, scales, heights, strict=True):
        left = (_PAGE_WIDTH - scale * sum(panel.width for panel in row)) / 2
        for panel in row:
            _paste(page, panel, scale, top + _pixels(_TITLE), _pixels(left))
            middle = (left + scale * panel.width / 2) / _PAGE_WIDTH
            height_of_title = 1 - (top + _pixels(0.6 * _TITLE)) / len(page)
            titles.text(middle, height_of_title, panel.title, fontsize=9, fontweight="bold", ha="center", va="center")
            left += scale * panel.width
        top += height
    page[top:, : foot.shape[1]] = foot
    return np.minimum(page, draw_picture(titles, PAGE_DOTS))


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """As many panels beside each other as a page is wide."""
    rows: list[list[Panel]] = []
    for panel in panels:
        last = rows[-1] if rows else []
        if last and sum(one.width for one in [*last, panel]) <= _PAGE_WIDTH + 0.01:
            last.append(panel)
        else:
            rows.append([panel])
    return rows


def _paste(page: Picture, panel: Panel, scale: float, top: int, left: int) -> None:
    height, width = _pixels(scale * panel.height), min(_pixels(scale * panel.width), page.shape[1] - left)
    smaller = Image.fromarray(panel.picture).resize((width, height), Image.Resampling.LANCZOS)
    page[top : top + height, left : left + width] = np.asarray(smaller)


def _pixels(inches: float) -> int:
    return round(inches * PAGE_DOTS)
