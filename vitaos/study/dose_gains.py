"""The figure of what each technique gains on plain by dose: a panel a technique, a dozen of them can be read."""

from collections.abc import Sequence
from typing import Any, Final

from vitaos.analysis.style import PAGE, color
from vitaos.study.dose import DosePoint, DoseResponse
from vitaos.study.labels import metric_title, technique_title

__all__ = ["compared", "draw_gains", "gains_size"]

SIGNIFICANT: Final = 0.05
_COLUMNS: Final = 4


def compared(response: DoseResponse, techniques: Sequence[str]) -> list[str]:
    """The techniques that were compared with plain at two doses or more, in the order given."""
    return [name for name in techniques if len(_points(response, name)) > 1]


def gains_size(panels: int) -> tuple[float, float]:
    """Width and height in inches for this number of panels."""
    rows = -(-panels // _COLUMNS)
    return PAGE * min(panels, _COLUMNS) / _COLUMNS + (0.0 if panels >= _COLUMNS else 0.6), 0.9 + 1.3 * rows


def draw_gains(figure: Any, response: DoseResponse, techniques: Sequence[str], metric: str) -> None:
    """A panel a technique: mean difference to plain of the same dose, its 95% interval by Welch, and seeds.

    A filled marker has p < 0.05, corrected by Holm over the techniques of the dose. All panels have one scale.

    Args:
        figure: to draw on.
        response: its points; see :func:`compared` for which techniques have a panel.
        techniques: all of the study, whose place gives the color.
        metric: the study's.
    """
    names = compared(response, techniques)
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _draw_panel(axes, _points(response, name), color(techniques.index(name)))
        axes.set_title(technique_title(name), loc="left")
        axes.tick_params(labelbottom=True)  # also above an empty place
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    panels[0].xaxis.set_major_formatter("{x:g}")
    panels[0].invert_xaxis()  # shared: from the ordinary network to the collapsed one
    figure.supxlabel("skip gain r (1: the ordinary network)", fontsize="medium")
    figure.supylabel("difference to plain", fontsize="medium")
    figure.suptitle("; ".join([metric_title(metric), *_explained(response)]), fontsize="medium", x=0.01, ha="left")


def _explained(response: DoseResponse) -> list[str]:
    """What the marks mean, of those that the figure has."""
    differences = [point.cell.difference for point in response.points]
    marks = {
        "bars: 95% over seeds": any(found is not None and found.interval is not None for found in differences),
        "dots: seed by seed": any(len(point.differences) > 1 for point in response.points),
        "filled: p < 0.05 by Holm over the techniques of a dose": any(_is_sure(point) for point in response.points),
    }
    return [text for text, is_there in marks.items() if is_there]


def _is_sure(point: DosePoint) -> bool:
    return point.p_value is not None and point.p_value < SIGNIFICANT


def _points(response: DoseResponse, technique: str) -> list[DosePoint]:
    return [point for point in response.of(technique) if point.cell.difference is not None]


def _draw_panel(axes: Any, points: Sequence[DosePoint], shade: str) -> None:
    axes.axhline(0, color="#555555", linewidth=0.8)
    found = [(point, point.cell.difference) for point in points if point.cell.difference is not None]
    axes.plot([point.skip_gain for point, _ in found], [difference.value for _, difference in found], color=shade)
    for point, difference in found:
        here = point.skip_gain
        axes.plot([here] * len(point.differences), point.differences, ".", color=shade, alpha=0.4)
        if difference.interval is not None:
            axes.plot([here] * 2, difference.interval, color=shade, linewidth=0.8)
        axes.plot(here, difference.value, "o", color=shade, markerfacecolor=shade if _is_sure(point) else "white")
