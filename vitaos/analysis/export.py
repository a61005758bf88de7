"""Every number of an analysis as CSV, its gist as JSON.

The CSV is long: one number a row, so that a spreadsheet or a data frame filters what it needs. Columns: ``run, measure,
module, block, stage, head, x, y, value, std``; ``head``, ``x`` and ``y`` are empty where a measure has none. ``x``
and ``y`` are frequencies in cycles per token, a channel, or the number of the other module.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vitaos.analysis.curves import gain_by_layer, head_gains_by_layer, similarity_to_previous
from vitaos.analysis.measured import Analysis, Array, AttentionMeasures
from vitaos.analysis.spectrum import response_frequencies
from vitaos.metrics_reader import finite_or_null

__all__ = ["COLUMNS", "csv_rows", "summarize", "write_csv", "write_summary"]

COLUMNS = ("run", "measure", "module", "block", "stage", "head", "x", "y", "value", "std")
Row = dict[str, Any]


def write_csv(analyses: Sequence[Analysis], path: Path) -> None:
    """Write every number of these runs."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for run in analyses:
            writer.writerows({"run": run.label} | row for row in csv_rows(run))


def write_summary(analyses: Sequence[Analysis], path: Path) -> None:
    """Write :func:`summarize` every run as JSON."""
    path.write_text(json.dumps([summarize(run) for run in analyses], indent=2, allow_nan=False) + "\n")


def csv_rows(run: Analysis) -> Iterator[Row]:
    """Rows of the CSV, without the run's name."""
    for features in run.features:
        place = {"module": features.name, "block": features.number, "stage": features.stage}
        for name, moments in features.values.items():
            yield place | {"measure": name, "value": _short(moments.mean), "std": _short(moments.std)}
        ys, xs = (_frequencies(size) for size in features.grid)
        for y, line in zip(ys, features.amplitude, strict=True):
            for x, value in zip(xs, line, strict=True):
                yield place | {"measure": "feature_amplitude", "x": x, "y": y, "value": _short(value)}
    for row in run.attention:
        yield from _response_rows(row)
    yield from _layer_rows(run)
    yield from _propagation_rows(run)
    for name, modules in run.learned.items():
        for number, (module, values) in enumerate(modules.items(), start=1):
            axis = "head" if name == "attn_scale" else "x"
            for index, value in enumerate(values):
                place = {"measure": name, "module": module, "block": number, axis: index + 1}
                yield place | {"value": _short(value)}


def _response_rows(row: AttentionMeasures) -> Iterator[Row]:
    is_class = row.layer.kind == "class"
    measures: list[tuple[str, Array | None]] = [
        ("class_attention_spectrum" if is_class else "spectral_response", row.response),
        ("spectral_response_attnscale", row.applied),
    ]
    place = {"module": row.layer.name, "block": row.layer.number, "stage": row.layer.stage}
    for measure, response in measures:
        if response is None:
            continue
        labeled = [("mean", response.mean(axis=0)), *((index, line) for index, line in enumerate(response, start=1))]
        for head, line in labeled:
            for x, value in zip(_frequencies(row.tokens), line, strict=True):
                yield place | {"measure": measure, "head": head, "x": x, "value": _short(value)}


def _layer_rows(run: Analysis) -> Iterator[Row]:
    """One number an attention module: gain, similarity to the previous map and to every other."""
    places = [{"module": row.layer.name, "block": row.layer.number, "stage": row.layer.stage} for row in run.attention]
    gains = {"high_frequency_gain": head_gains_by_layer(run, applied=False)}
    if any(row.applied is not None for row in run.attention):
        gains["high_frequency_gain_attnscale"] = head_gains_by_layer(run, applied=True)
    for measure, layers in gains.items():
        for index, by_head in layers.items():
            for head, value in (("mean", by_head.mean()), *enumerate(by_head, start=1)):
                yield places[index] | {"measure": measure, "head": head, "value": _short(float(value))}
    for index, similarity in similarity_to_previous(run).items():
        place = places[index] | {"measure": "map_similarity_to_previous", "head": "mean"}
        yield place | {"value": _short(similarity)}
    for index, place in enumerate(places):
        for other, value in enumerate(run.map_similarity[index]):
            if not np.isnan(value):
                yield place | {"measure": "map_similarity", "x": other + 1, "value": _short(value)}


def _propagation_rows(run: Analysis) -> Iterator[Row]:
    """Dominant eigenvalue by attention module, length distortion by block; nothing where they were not measured."""
    if run.propagation is None:
        return
    for mode in run.propagation.modes:
        place = {"module": mode.module, "block": mode.block, "stage": mode.stage}
        yield place | {"measure": "dominant_eigenvalue", "value": _short(mode.modulus)}
        yield place | {"measure": "dominant_eigenvalue_angle", "value": _short(mode.angle)}
        yield place | {"measure": "dominant_mode_direct_share", "value": _short(mode.direct_share)}
    for features, value in zip(run.features, run.propagation.length_distortion, strict=True):
        place = {"module": features.name, "block": features.number, "stage": features.stage}
        yield place | {"measure": "length_distortion", "value": _short(value)}


def summarize(run: Analysis) -> dict[str, Any]:
    """What one would quote of a run: measures behind the last block, means over blocks, means of learned scales."""
    summary: dict[str, Any] = {"run": run.label, **asdict(run.provenance), "images": run.images}
    summary["blocks"] = len(run.features) - 1
    for name in run.features[0].values:
        values = [row.values[name].mean for row in run.features[1:]]
        summary[name] = {"last_block": values[-1], "mean_over_blocks": float(np.mean(values))}
    for name, layers in {
        "high_frequency_gain": gain_by_layer(run, applied=False),
        "high_frequency_gain_applied": gain_by_layer(run, applied=True),
        "map_similarity_to_previous": similarity_to_previous(run),
    }.items():
        if layers:
            last = layers[max(layers)]
            summary[name] = {
                "last_block": last,
                "mean_over_blocks": float(np.mean([*layers.values()])),
            }
    if run.propagation is not None:
        modes, lengths = run.propagation.modes, run.propagation.length_distortion
        for name, values in {
            "dominant_eigenvalue": [mode.modulus for mode in modes],
            "dominant_mode_direct_share": [mode.direct_share for mode in modes],
            "length_distortion": lengths[1:],
        }.items():
            summary[name] = {"last_block": values[-1], "mean_over_blocks": float(np.mean(values))}
    for name, modules in run.learned.items():
        everything = np.concatenate(list(modules.values()))
        summary[name] = {"mean": float(everything.mean()), "std": float(everything.std())}
    return dict(finite_or_null(summary))


def _frequencies(size: int) -> list[str]:
    return [_short(value) for value in response_frequencies(size).tolist()]


def _short(value: float) -> str:
    return f"{value:.7g}"
