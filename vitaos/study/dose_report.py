"""A dose-response as Markdown, rows for a CSV file, and figures."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from vitaos.analysis.figures import new_figure
from vitaos.analysis.measured import LEARNED
from vitaos.study.budget_report import budget_columns
from vitaos.study.cells import Study
from vitaos.study.dose import MONITORED, DosePoint, DoseResponse
from vitaos.study.dose_figures import draw_by_block, draw_learned, draw_response, figure_size, learned_here
from vitaos.study.dose_gains import compared, draw_gains, gains_size
from vitaos.study.labels import axis_label, blocks_text, decimals, file_stem, interval_text, mean_text, technique_title
from vitaos.study.runs import PLAIN

__all__ = ["dose_rows", "draw_dose_figures", "markdown_of_dose"]


def markdown_of_dose(study: Study, response: DoseResponse) -> list[str]:
    """Three tables: the metric, its difference to plain (a row a technique, a column a dose), and the insides."""
    digits = decimals(study.metric)
    techniques = [name for name in study.techniques if response.of(name)]
    lines = [f"## Dose-response of {response.model} on {response.data}{blocks_text(response.depth)}", ""]
    own = "" if study.tuned is None else f", each at the `{study.tuned}` chosen for it on held-out images"
    lines += [f"{axis_label(study.metric)} by `skip_gain`{own}; mean ± standard deviation (seeds).", ""]
    lines += _grid(response, techniques, lambda point: _mean(point, digits))
    others = [name for name in techniques if name != PLAIN]
    if others:
        lines += [
            "",
            "Difference to plain of the same dose: [95% interval by Welch's t over seeds], p corrected by Holm over "
            "the techniques of the dose; {95% interval of the bootstrap over images and seeds} where `eval.py` left "
            "predictions.",
            "",
            *_grid(response, others, lambda point: _difference(point, digits)),
        ]
    return [*lines, "", *_inside(study, response, techniques)]


def _inside(study: Study, response: DoseResponse, techniques: Sequence[str]) -> list[str]:
    """A table of what became of the tokens, and what was learned: a row a dose and technique."""
    digits = decimals(study.metric)
    lines = [
        "### Inside",
        "",
        "Token similarity and HF / DC behind the last block, before and after training; learned values: mean over "
        "blocks and heads or channels; zeroed: the accuracy with these at 0 (`eval.py zero_learned=true`). "
        "Means over seeds.",
        "",
        f"| r | technique | n | {axis_label(study.metric)} | token similarity | HF / DC | "
        + " | ".join(LEARNED.values())
        + " | zeroed |",
        "|---" * (7 + len(LEARNED)) + "|",
    ]
    order = sorted(response.points, key=lambda point: (-point.skip_gain, techniques.index(point.cell.technique)))
    for point in order:
        name = technique_title(point.cell.technique)
        row = [f"{point.skip_gain:g}", name, str(len(point.cell.runs)), f"{point.cell.mean:.{digits}f}"]
        row += [_before_and_after(point, key) for key in MONITORED]
        row += ["" if (found := point.learned(key)) is None else f"{mean(found):+.3f}" for key in LEARNED]
        row.append("" if point.zeroed is None else f"{point.zeroed:.2f}")
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _before_and_after(point: DosePoint, key: str) -> str:
    values = (point.after_last_block(f"initial_{key}"), point.after_last_block(key))
    return " → ".join("?" if value is None else f"{value:.3f}" for value in values)


def dose_rows(study: Study, response: DoseResponse) -> Iterator[dict[str, Any]]:
    """A row a point: dose, budget, metric, difference and the monitor's values at the start and the end."""
    for point in response.points:
        cell = point.cell
        difference = cell.difference
        interval = (difference.interval if difference else None) or (None, None)
        bootstrap = point.bootstrap or (None, None)
        paired = point.paired or (None, None)
        yield {
            "model": response.model,
            "data": response.data,
            "depth": response.depth,
            "skip_gain": point.skip_gain,
            "technique": cell.technique,
            "n": len(cell.runs),
            **budget_columns(cell.budget),
            "metric": study.metric,
            "mean": cell.mean,
            "std": cell.std,
            "difference": difference.value if difference else None,
            "welch_low": interval[0],
            "welch_high": interval[1],
            "p_holm": point.p_value,
            "bootstrap_low": bootstrap[0],
            "bootstrap_high": bootstrap[1],
            "paired_low": paired[0],
            "paired_high": paired[1],
            **{
                f"{when}_{key}_last_block": point.after_last_block(f"{prefix}{key}")
                for key in MONITORED
                for when, prefix in (("start", "initial_"), ("end", ""))
            },
            **{key: None if (found := point.learned(key)) is None else mean(found) for key in LEARNED},
            "zeroed_top1": point.zeroed,
        }


def draw_dose_figures(study: Study, response: DoseResponse, folder: Path) -> list[Path]:
    """Draw the figures and return their paths: gains and learned values where there are any."""
    techniques = study.techniques
    name = file_stem(response.model, response.data, depth=response.depth)
    width, height = figure_size(techniques)
    headline, by_block = folder / f"dose_{name}.png", folder / f"dose_blocks_{name}.png"
    figure = new_figure((width, height))
    draw_response(figure, response, techniques, study.metric, tuned=study.tuned)
    figure.savefig(headline)
    figure = new_figure((width, height + 1.4))
    draw_by_block(figure, response, techniques)
    figure.savefig(by_block)
    drawn = [headline, by_block]
    if panels := len(compared(response, techniques)):
        drawn.append(folder / f"dose_gains_{name}.png")
        figure = new_figure(gains_size(panels))
        draw_gains(figure, response, techniques, study.metric)
        figure.savefig(drawn[-1])
    if learned_here(response):
        drawn.append(folder / f"dose_learned_{name}.png")
        figure = new_figure((width, height - 0.4))
        draw_learned(figure, response, techniques)
        figure.savefig(drawn[-1])
    return drawn


def _grid(response: DoseResponse, techniques: Sequence[str], text: Callable[[DosePoint], str]) -> list[str]:
    lines = ["| technique | " + " | ".join(f"r = {dose:g}" for dose in response.doses) + " |"]
    lines.append("|---" * (1 + len(response.doses)) + "|")
    for name in techniques:
        by_dose = {point.skip_gain: text(point) for point in response.of(name)}
        lines.append(
            f"| {technique_title(name)} | " + " | ".join(by_dose.get(dose, "") for dose in response.doses) + " |"
        )
    return lines


def _mean(point: DosePoint, digits: int) -> str:
    return f"{mean_text(point.cell.mean, point.cell.std, digits)} ({len(point.cell.runs)})"


def _difference(point: DosePoint, digits: int) -> str:
    difference = point.cell.difference
    if difference is None:
        return "not compared"
    text = f"{difference.value:+.{digits}f}"
    if difference.interval is not None:
        text += f" {interval_text(difference.interval, digits)}"
    if point.p_value is not None:
        text += f" p = {point.p_value:.2g}"
    if point.bootstrap is not None:
        text += f" {interval_text(point.bootstrap, digits, '{}')}"
    return text
