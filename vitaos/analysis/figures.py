"""The set of figures of an analysis: which there are, how large, and one page with all of them."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vitaos.analysis import curves, maps, responses
from vitaos.analysis.measured import Analysis
from vitaos.analysis.pictures import DOTS, PAGE_DOTS, Panel, Picture, draw_page, draw_picture, save_picture
from vitaos.analysis.style import COLUMN, PAGE, legend_height, shorten, style

__all__ = ["Drawing", "caption", "captioned_figure", "drawings", "new_figure", "save_figures"]


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes:
        name: of its file, without suffix.
        title: on the overview page.
        size: width and height in inches.
        draw: draws it into a figure or sub-figure.
    """

    name: str
    title: str
    size: tuple[float, float]
    draw: Callable[[Any, Sequence[Analysis]], None]


def drawings(analyses: Sequence[Analysis]) -> list[Drawing]:
    """The figures that these runs have something to show in."""
    labels = [*responses.curve_labels(analyses), curves.SPREAD_LABEL]
    small = (COLUMN, 2.1 + legend_height(labels, COLUMN))
    below = legend_height(labels, PAGE)
    blocks = max(len(maps.square_layers(run)) for run in analyses)
    panels = len(maps.run_panels(analyses))
    matrices = min(len(analyses), maps.PANEL_COLUMNS)
    matrix_rows = -(-len(analyses) // maps.PANEL_COLUMNS)
    panel_rows = -(-panels // maps.PANEL_COLUMNS)
    responses_size = responses.response_size(analyses)
    found = [
        Drawing("token_similarity", "Token similarity", small, curves.draw_token_similarity),
        Drawing("hf_dc_ratio", "High-frequency to direct-current ratio", small, curves.draw_high_frequency_ratio),
        Drawing("effective_rank", "Effective rank", small, curves.draw_effective_rank),
        Drawing("token_norm", "Norm of tokens", small, curves.draw_token_norm),
        Drawing("high_frequency_gain", "High-frequency gain of attention", small, curves.draw_high_frequency_gain),
        Drawing("map_similarity", "Similarity of successive attention maps", small, curves.draw_map_similarity),
        Drawing(
            "map_similarity_matrix",
            "Similarity of attention maps between blocks",
            (_width(matrices, 2.2), ((_width(matrices, 2.2) - 1.0) / matrices + 0.6) * matrix_rows),
            maps.draw_map_similarity_matrix,
        ),
        Drawing(
            "spectral_response_heat_map",
            "Spectral response of attention",
            (_width(panels, 1.9), (1.3 + 0.09 * blocks) * panel_rows),
            maps.draw_response_heat_map,
        ),
        Drawing(
            "head_gain",
            "High-frequency gain by head",
            (_width(panels, 1.6), (1.3 + 0.09 * blocks) * panel_rows),
            maps.draw_head_gain,
        ),
        Drawing(
            "spectral_response",
            "Spectral response by block",
            responses_size,
            responses.draw_response,
        ),
        Drawing(
            "feature_spectrum",
            "Spectrum of the feature maps",
            (PAGE, 0.55 + 1.05 * len(analyses)),
            maps.draw_feature_spectrum,
        ),
    ]
    if any(run.learned for run in analyses):
        count = len({name for run in analyses for name in run.learned})
        found.append(
            Drawing("learned_scales", "Learned scales", (_width(count, 2.4), 2.2 + below), curves.draw_learned_scales)
        )
    if any(run.propagation for run in analyses):
        found += [
            Drawing(
                "dominant_eigenvalue",
                "Dominant eigenvalue of attention",
                (_width(2, 2.4), 2.1 + below),
                curves.draw_dominant_eigenvalue,
            ),
            Drawing("length_distortion", "Length distortion", small, curves.draw_length_distortion),
        ]
    if any(maps.class_layers(run) for run in analyses):
        found.append(Drawing("class_attention", "Class attention", (PAGE, 2.2 + below), maps.draw_class_attention))
    return found


def save_figures(analyses: Sequence[Analysis], folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write one PNG (and PDF when asked for) a figure, and ``overview.png`` with all of them.

    Returns:
        The files, the overview last.
    """
    written: list[Path] = []
    panels: list[Panel] = []
    lines = caption(analyses)
    with style():
        for drawing in drawings(analyses):
            figure, area = captioned_figure(drawing.size, lines)
            drawing.draw(area, analyses)
            picture = draw_picture(figure)
            written.append(folder / f"{drawing.name}.png")
            save_picture(picture, written[-1])
            if pdf:
                written.append(written[-1].with_suffix(".pdf"))
                figure.savefig(written[-1])
            panels.append(Panel(drawing.title, picture[: round(drawing.size[1] * DOTS)]))  # without its caption
        written.append(folder / "overview.png")
        save_picture(draw_page(panels, _foot(lines)), written[-1], PAGE_DOTS)
    return written


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of its own, outside pyplot's list, with the layout that keeps labels apart."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def caption(analyses: Sequence[Analysis]) -> list[str]:
    """Which weights and images the figures show: one line where all runs agree, else one line a run."""
    described = [run.provenance.describe(run.images) for run in analyses]
    if len(set(described)) == 1:
        return described[:1]
    return [f"{shorten(run.label)}: {text}" for run, text in zip(analyses, described, strict=True)]


def captioned_figure(size: tuple[float, float], lines: Sequence[str]) -> tuple[Figure, Any]:
    """A figure with these lines, small, below everything else, and the sub-figure of ``size`` (inches) to draw in."""
    text, added = _small_print(lines, size[0])
    figure = new_figure((size[0], size[1] + added))
    area, foot = figure.subfigures(2, 1, height_ratios=[size[1], added], hspace=0, squeeze=False)[:, 0]
    _write(foot, text, size[0])
    return figure, area


def _foot(lines: Sequence[str]) -> Picture:
    """The lines of a caption by themselves, for the page of all figures."""
    width = 3 * COLUMN
    text, height = _small_print(lines, width)
    figure = Figure(figsize=(width, height))
    _write(figure, text, width)
    return draw_picture(figure, PAGE_DOTS)


def _small_print(lines: Sequence[str], width: float) -> tuple[str, float]:
    """Lines broken at a width, and the height that they take (inches)."""
    wrapped = [part for line in lines for part in textwrap.wrap(line, int(width / 0.047))]
    return "\n".join(wrapped), 0.11 * len(wrapped) + 0.06


def _write(figure: Any, text: str, width: float) -> None:
    figure.text(0.04 / width, 0.5, text, fontsize=6, color="#555555", va="center")


def _width(panels: int, each: float) -> float:
    """Width of a row of panels: a column for few, a page for many."""
    return min(PAGE, max(COLUMN, panels * each + 0.6))
