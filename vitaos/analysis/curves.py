"""Figures with depth along the horizontal axis: features, attention maps and learned scales of one or several runs."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vitaos.analysis.measured import LEARNED, Analysis, Array, AttentionMeasures, FeatureMeasures
from vitaos.analysis.spectrum import high_frequency_gain
from vitaos.analysis.style import color, legend_below, log_scale, marker, shorten

__all__ = [
    "SPREAD_LABEL",
    "draw_dominant_eigenvalue",
    "draw_effective_rank",
    "draw_high_frequency_gain",
    "draw_high_frequency_ratio",
    "draw_learned_scales",
    "draw_length_distortion",
    "draw_map_similarity",
    "draw_token_norm",
    "draw_token_similarity",
    "gain_by_layer",
    "has_applied",
    "head_gains",
    "similarity_to_previous",
]

Segment = tuple[list[float], list[float], list[float]]  # x, mean, standard deviation
SPREAD_LABEL: Final = "± std over images"
_MOST_BANDS: Final = 2  # more of them, one on another, cannot be read


def draw_high_frequency_ratio(figure: Any, analyses: Sequence[Analysis]) -> None:
    """||HC[X]|| / ||DC[X]|| against depth, logarithmic."""
    axes = _feature_curves(figure, analyses, "hf_dc_ratio", r"$\|\mathrm{HC}[X]\|_F\,/\,\|\mathrm{DC}[X]\|_F$")
    log_scale(axes)


def draw_token_similarity(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Mean pairwise cosine similarity of the tokens against depth."""
    axes = _feature_curves(figure, analyses, "token_similarity", "cosine similarity of tokens")
    low = min(row.values["token_similarity"].mean for run in analyses for row in run.features)
    axes.set_ylim(min(0.0, low - 0.05), 1.02)


def draw_effective_rank(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Effective rank of the token matrix against depth."""
    axes = _feature_curves(figure, analyses, "effective_rank", "effective rank of tokens")
    axes.set_ylim(bottom=0)


def draw_token_norm(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Mean norm of the tokens against depth, logarithmic; dashed the longest token of an image."""
    axes = figure.subplots()
    for index, run in enumerate(analyses):
        _plot(axes, index, _feature_segments(run, "token_norm"), of=len(analyses))
        longest = [(x, mean, [0.0] * len(x)) for x, mean, _ in _feature_segments(run, "largest_token_norm")]
        _plot(axes, index, longest, linestyle="--", markerfacecolor="white")
    _finish(figure, axes, analyses, "norm of tokens", dashed="longest of an image", spread=True)
    axes.set_xlabel("block (0: input of the first)")
    log_scale(axes)


def draw_dominant_eigenvalue(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Modulus of the dominant eigenvalue of every block's attention, and how flat its eigenvector is."""
    panels = figure.subplots(1, 2)
    for axes, name, label in zip(
        panels, ("modulus", "direct_share"), ("dominant eigenvalue (modulus)", "share of its token mean"), strict=True
    ):
        for index, run in enumerate(analyses):
            modes = run.propagation.modes if run.propagation else []
            values = [getattr(mode, name) for mode in modes]
            axes.plot(range(1, len(modes) + 1), values, color=color(index), marker=marker(index))
        axes.set_ylabel(label)
        _depth_axis(axes)
    panels[1].set_ylim(-0.03, 1.03)
    _legend(figure, [run if run.propagation else None for run in analyses])


def draw_length_distortion(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Length distortion of a circle of images against depth, logarithmic."""
    axes = figure.subplots()
    for index, run in enumerate(analyses):
        lengths = run.propagation.length_distortion if run.propagation else []
        axes.plot(range(len(lengths)), lengths, color=color(index), marker=marker(index))
    _finish(figure, axes, [run if run.propagation else None for run in analyses], "length distortion")
    axes.set_xlabel("block (0: input of the first)")
    log_scale(axes)


def draw_map_similarity(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Cosine similarity of each attention map, before AttnScale, to the one before it against depth."""
    axes = figure.subplots()
    for index, run in enumerate(analyses):
        _plot(axes, index, _by_stage(run, similarity_to_previous(run)))
    _finish(figure, axes, analyses, "similarity to previous map")
    axes.set_ylim(min(axes.get_ylim()[0], 0.8), 1.02)


def draw_high_frequency_gain(figure: Any, analyses: Sequence[Analysis]) -> None:
    """High-frequency gain of the attention maps, mean over heads, against depth; dashed without AttnScale."""
    axes = figure.subplots()
    for index, run in enumerate(analyses):
        _plot(axes, index, _by_stage(run, gain_by_layer(run, applied=True)))
        if any(row.applied is not None for row in run.attention):
            _plot(
                axes, index, _by_stage(run, gain_by_layer(run, applied=False)), linestyle="--", markerfacecolor="white"
            )
    _finish(
        figure, axes, analyses, "high-frequency gain", dashed="without AttnScale" if has_applied(analyses) else None
    )
    axes.set_ylim(bottom=0)


def draw_learned_scales(figure: Any, analyses: Sequence[Analysis]) -> None:
    """Learned w of every head, and mean and spread over channels of s and t, against depth."""
    names = [name for name in LEARNED if any(name in run.learned for run in analyses)]
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    shown = [any(name in run.learned for name in names) for run in analyses]
    for axes, name in zip(panels, names, strict=True):
        for index, run in enumerate(analyses):
            modules = list(run.learned.get(name, {}).values())
            blocks = np.arange(1, len(modules) + 1) + 0.15 * (index - (len(analyses) - 1) / 2)  # side by side
            for block, values in zip(blocks, modules, strict=True):
                _spread(axes, block, values, color(index), heads=name == "attn_scale")
            axes.plot(blocks, [values.mean() for values in modules], color=color(index), marker=marker(index))
        letter = LEARNED[name]
        axes.set_title(f"${letter}$: " + ("heads and their mean" if letter == "w" else "mean, 10-90% of channels"))
        axes.set_ylabel(f"learned ${letter}$")
        axes.axhline(0, color="#888888", linewidth=0.6, zorder=0)
        _depth_axis(axes)
    _legend(figure, [run if show else None for run, show in zip(analyses, shown, strict=True)])


def has_applied(analyses: Sequence[Analysis]) -> bool:
    """Whether any run has AttnScale."""
    return any(row.applied is not None for run in analyses for row in run.attention)


def gain_by_layer(run: Analysis, *, applied: bool) -> dict[int, float]:
    """High-frequency gain, mean over heads, by index in ``run.attention``; class attention has none."""
    return {index: float(gains.mean()) for index, gains in head_gains_by_layer(run, applied=applied).items()}


def head_gains_by_layer(run: Analysis, *, applied: bool) -> dict[int, Array]:
    """High-frequency gain of every head, (H,), by index in ``run.attention``; class attention has none."""
    gains = {}
    for index, row in enumerate(run.attention):
        if row.layer.kind == "class" or row.tokens < 2:
            continue
        response = row.applied if applied and row.applied is not None else row.response
        gains[index] = head_gains(response)
    return gains


def head_gains(response_HN: Array) -> Array:
    """High-frequency gain of every head, (H,)."""
    return np.asarray(high_frequency_gain(torch.from_numpy(response_HN)))


def similarity_to_previous(run: Analysis) -> dict[int, float]:
    """Cosine to the nearest earlier map of the same size, stage and window position, by index in ``run.attention``."""
    found = {}
    for index in range(1, len(run.attention)):
        earlier = run.map_similarity[index, :index]
        comparable = earlier[~np.isnan(earlier)]
        if len(comparable):
            found[index] = float(comparable[-1])
    return found


def _by_stage(run: Analysis, values: dict[int, float]) -> list[Segment]:
    """Curves over the block number, broken where a stage begins and where class attention follows."""
    rows: list[tuple[AttentionMeasures, float]] = [(run.attention[index], value) for index, value in values.items()]
    offset = max((row.layer.number for row in run.attention if row.layer.kind != "class"), default=0)
    segments: dict[tuple[int, bool], Segment] = {}
    for row, value in rows:
        is_class = row.layer.kind == "class"
        x, mean, std = segments.setdefault((row.layer.stage, is_class), ([], [], []))
        x.append(row.layer.number + (offset if is_class else 0))
        mean.append(value)
        std.append(0.0)
    return list(segments.values())


def _feature_curves(figure: Any, analyses: Sequence[Analysis], name: str, ylabel: str) -> Any:
    axes = figure.subplots()
    for index, run in enumerate(analyses):
        _plot(axes, index, _feature_segments(run, name), of=len(analyses))
    _finish(figure, axes, analyses, ylabel, spread=True)
    axes.set_xlabel("block (0: input of the first)")
    return axes


def _feature_segments(run: Analysis, name: str) -> list[Segment]:
    """Curves of a measure of features over the block number, broken where a stage begins."""
    stages: dict[int, list[FeatureMeasures]] = {}
    for row in run.features:
        stages.setdefault(row.stage, []).append(row)
    return [
        (
            [float(row.number) for row in rows],
            [row.values[name].mean for row in rows],
            [row.values[name].std for row in rows],
        )
        for rows in stages.values()
    ]


def _plot(axes: Any, index: int, segments: list[Segment], *, of: int = 1, **keywords: Any) -> None:
    """Curves of run number ``index`` of ``of``; spreads as bands, or as bars side by side where those would overlap."""
    for x, mean, std in segments:
        if any(std) and of > _MOST_BANDS:
            shifted = np.asarray(x) + 0.12 * (index - (of - 1) / 2)
            look: dict[str, Any] = {"color": color(index), "marker": marker(index), "elinewidth": 0.6, "capsize": 1.2}
            axes.errorbar(shifted, mean, yerr=std, linewidth=0.9, **look)
            continue
        axes.plot(x, mean, color=color(index), marker=marker(index), **keywords)
        if any(std):
            center, spread = np.asarray(mean), np.asarray(std)
            low = np.maximum(center - spread, 0.2 * center) if (center > 0).all() else center - spread
            axes.fill_between(x, low, center + spread, color=color(index), alpha=0.15, linewidth=0)


def _spread(axes: Any, block: float, values: Array, shade: str, *, heads: bool) -> None:
    if heads:
        axes.plot(
            np.full(len(values), block), values, linestyle="none", marker=".", markersize=2.5, color=shade, alpha=0.45
        )
    else:
        axes.vlines(block, *np.quantile(values, [0.1, 0.9]), color=shade, alpha=0.35, linewidth=2.2)


def _finish(
    figure: Any,
    axes: Any,
    analyses: Sequence[Analysis | None],
    ylabel: str,
    *,
    dashed: str | None = None,
    spread: bool = False,
) -> None:
    axes.set_ylabel(ylabel)
    _depth_axis(axes)
    _legend(figure, analyses, dashed=dashed, spread=spread)


def _depth_axis(axes: Any) -> None:
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=2))


def _legend(figure: Any, runs: Sequence[Analysis | None], *, dashed: str | None = None, spread: bool = False) -> None:
    handles: list[Any] = []
    labels = []
    for index, run in enumerate(runs):
        if run is not None:
            handles.append(Line2D([], [], color=color(index), marker=marker(index)))
            labels.append(shorten(run.label))
    if dashed:
        handles.append(Line2D([], [], color="#555555", linestyle="--"))
        labels.append(dashed)
    if spread:
        bar = Line2D([], [], linestyle="none", marker="|", markersize=7, color="#555555")
        handles.append(bar if len(runs) > _MOST_BANDS else Patch(facecolor="#555555", alpha=0.25))
        labels.append(SPREAD_LABEL)
    legend_below(figure, handles, labels)
