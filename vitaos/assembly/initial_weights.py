"""Starting from given weights instead of random ones: ``init`` and ``init_weights``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vitaos.checkpoint.safe_load import load_file
from vitaos.config import DataConfig, TrainConfig
from vitaos.weights import sources
from vitaos.weights.load import LoadReport, load_weights
from vitaos.weights.names import has_average


def load_initial_weights(config: TrainConfig, model: nn.Module) -> LoadReport | None:
    """Load the weights that ``init`` means, the classifier included where the number of classes agrees.

    Returns:
        What was loaded and from where; None where the run starts from random weights.

    Raises:
        ValueError: naming ``init``: there is no such source, it cannot be had, or it does not fit the model.
    """
    if not config.init:
        return None
    try:
        source = sources.find(config.init, model)
        content = load_file(source.path) if source.content is None else source.content
        weights = choose_weights(config.init_weights, content, source.path)
        report = load_weights(model, content, weights=weights, classifier="fit")
    except ValueError as error:
        raise ValueError(f"init={config.init}: {error}") from error
    average = ", the running average (EMA)" if weights == "ema" else ""
    report.notes.append(f"started from init={config.init}: {source.path}{average}")
    report.notes += _notes_on_images(config.data, _preprocessing(content) or source.preprocessing)
    return report


def choose_weights(wanted: str, content: Any, path: Path, *, key: str = "init_weights") -> str:
    """Which of a file's weights `wanted` (raw, ema, auto) means, in the words of ``load_weights``: "model" or "ema".

    Raises:
        ValueError: the running average is asked for by the configuration's `key`, and there is none.
    """
    averaged = isinstance(content, Mapping) and has_average(content)
    if wanted == "ema" and not averaged:
        raise ValueError(f"{path} holds no running average of the weights; use {key}=raw")
    return "ema" if averaged and wanted in ("ema", "auto") else "model"


def _preprocessing(content: Any) -> Mapping[str, Any]:
    """How a run normalized its images, from its checkpoint; {} for other files."""
    for key in ("config", "data"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _notes_on_images(data: DataConfig, trained_with: Mapping[str, Any]) -> list[str]:
    """A sentence where the weights were trained on images normalized otherwise than this run's."""
    differing = []
    for name, here in (("mean", data.mean), ("std", data.std)):
        there = trained_with.get(name)
        known = isinstance(there, list | tuple) and all(isinstance(value, int | float) for value in there)
        if known and there is not None and [round(value, 3) for value in there] != [round(value, 3) for value in here]:
            differing.append(f"data.{name}=[{','.join(f'{value:g}' for value in there)}]")
    if not differing:
        return []
    return [f"these weights were trained on images normalized otherwise; as there: {' '.join(differing)}"]
