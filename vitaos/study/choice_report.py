"""What a tuned key did to every technique: a table and a figure of all values that were tried, the taken one marked."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.lines import Line2D

from vitaos.analysis.figures import new_figure
from vitaos.analysis.style import PAGE, color, legend_below, legend_height, look
from vitaos.study.cells import Study
from vitaos.study.choice import Choice, Trial, values_of
from vitaos.study.labels import axis_label, blocks_text, decimals, file_stem, mean_text, technique_title

__all__ = ["draw_choices", "markdown_of_choices"]

_TAKEN = "taken (best on held-out images)"
_MOST_PANELS = 4  # side by side on a page; more doses go on in the next row


def markdown_of_choices(study: Study) -> list[str]:
    """A row a setting, a column a value: the reported metric, the taken value in bold; then how each was chosen."""
    made = [choice for choice in study.choices if len(choice.trials) > 1]
    if not made:
        return []
    values = values_of(study.choices)
    lines = [
        "## Chosen on held-out images",
        "",
        f"{axis_label(study.metric)} by `{made[0].key}`, all values that were tried; mean ± standard deviation "
        "(seeds); **bold**: taken.",
        "",
        "| model | technique | " + " | ".join(str(value) for value in values) + " |",
        "|---" * (2 + len(values)) + "|",
    ]
    for choice in study.choices:
        run = choice.run
        texts = {trial.value: _text(study, choice, trial) for trial in choice.trials}
        row = [f"{run.model}{blocks_text(run.depth)}", technique_title(run.technique)]
        row += [texts.get(value, "") for value in values]
        lines.append("| " + " | ".join(row) + " |")
    one = [f"{choice.run.model}, {choice.run.technique}" for choice in study.choices if len(choice.trials) == 1]
    untuned = [f"- Only one value was tried, to their disadvantage beside tuned ones: {'; '.join(one)}."] if one else []
    return [*lines, "", *(f"- {choice.line}" for choice in made), *untuned]


def draw_choices(study: Study, folder: Path) -> list[Path]:
    """One figure for every backbone, dataset and depth that tried several values: a panel a dose."""
    groups: dict[tuple[str, str, int | None], list[Choice]] = {}
    for choice in study.choices:
        run = choice.run
        groups.setdefault((run.backbone, run.data, run.depth), []).append(choice)
    paths = []
    for (backbone, data, depth), choices in groups.items():
        if all(len(choice.trials) == 1 for choice in choices):
            continue
        name = file_stem(choices[0].key, backbone, data, depth=depth)
        paths.append(folder / f"choice_{name}.png")
        _draw(study, choices).savefig(paths[-1])
    return paths


def _draw(study: Study, choices: Sequence[Choice]) -> Any:
    doses = sorted({choice.run.skip_gain for choice in choices}, reverse=True)
    shown = [name for name in study.techniques if any(choice.run.technique == name for choice in choices)]
    labels = [*(technique_title(name) for name in shown), _TAKEN]
    rows = -(-len(doses) // _MOST_PANELS)
    columns = -(-len(doses) // rows)
    width = PAGE if columns > 1 else PAGE / 2
    figure = new_figure((width, 0.4 + 1.8 * rows + legend_height(labels, width)))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    values = values_of(choices)
    for axes, dose in zip(panels, doses, strict=False):
        for choice in choices:
            if choice.run.skip_gain == dose:
                _draw_line(axes, study, choice, values)
        _scale(axes, values)
        axes.set_title(f"r = {dose:g}", loc="left")
        axes.set_xlabel(choices[0].key)
    for axes in panels[len(doses) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(axis_label(study.metric))
    indices = [study.techniques.index(name) for name in shown]
    handles: list[Any] = [Line2D([], [], **look(i)) for i in indices]
    ring = Line2D([], [], linestyle="none", marker="o", markersize=8, markerfacecolor="none", color="#555555")
    legend_below(figure, [*handles, ring], labels)
    return figure


def _draw_line(axes: Any, study: Study, choice: Choice, values: Sequence[Any]) -> None:
    index = study.techniques.index(choice.run.technique)
    x, y = [], []
    for trial in choice.trials:
        found = _metric(study, trial)
        if not found:
            continue
        place = _place(values, trial.value)
        x.append(place)
        y.append(mean(found))
        axes.plot([place] * len(found), found, "o", color=color(index), markersize=2, alpha=0.5)
        if trial.value == choice.value and len(choice.trials) > 1:
            axes.plot(place, y[-1], "o", markersize=8, markerfacecolor="none", color=color(index))
    axes.plot(x, y, **look(index))


def _scale(axes: Any, values: Sequence[Any]) -> None:
    if _are_positive(values):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([_place(values, value) for value in values], [_short(value) for value in values])


def _place(values: Sequence[Any], value: Any) -> float:
    """Where a value stands on its axis: positive numbers where they are, anything else side by side."""
    return float(value) if _are_positive(values) else float(values.index(value))


def _are_positive(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and value > 0 for value in values)


def _short(value: Any) -> str:
    """A tick's text: 0.0003 as 3e-4."""
    if not isinstance(value, float) or not 0 < value < 0.01:
        return str(value)
    mantissa, _, exponent = f"{value:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _metric(study: Study, trial: Trial) -> list[float]:
    found = (run.metrics[-1].get(study.metric) for run in trial.runs)
    return [float(value) for value in found if isinstance(value, (int, float))]


def _text(study: Study, choice: Choice, trial: Trial) -> str:
    found = _metric(study, trial)
    if not found:
        return ""
    std = stdev(found) if len(found) > 1 else None
    text = mean_text(mean(found), std, decimals(study.metric))
    return f"**{text}** ({len(found)})" if trial.value == choice.value else f"{text} ({len(found)})"
