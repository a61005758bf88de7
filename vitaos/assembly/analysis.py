"""An analysis of one or several models: what is looked at, on which images, and where the figures go."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from vitaos.analysis.export import write_csv, write_summary
from vitaos.analysis.figures import save_figures
from vitaos.analysis.measure import measure
from vitaos.analysis.measured import Analysis, Provenance
from vitaos.analysis.propagation import propagation
from vitaos.assembly import builders, fewer_tokens
from vitaos.assembly.eval_target import EvalTarget, build_loader, build_model, resolve_checkpoint, untrained
from vitaos.assembly.fingerprint import shape_labels
from vitaos.config import AnalyzeConfig, enabled_techniques
from vitaos.engine.precision import build_precision
from vitaos.runtime.world import World

_PROPAGATED: Final = 4
"""Images whose attention maps make the eigenvalues: each takes 60 passes of every block's attention."""


def analyze(config: AnalyzeConfig, world: World) -> list[Path]:
    """Measure every model and write figures, CSV and summary.

    Returns:
        The files written.

    Raises:
        ValueError: nothing to analyze, or something that cannot be; the message names what would be right.
    """
    checkpoints = _checkpoints(config)
    labels = _labels(config, checkpoints)
    analyses = [_analyze_one(config, path, label, world) for path, label in zip(checkpoints, labels, strict=True)]
    folder = _new_folder(Path(config.out))
    write_csv(analyses, folder / "numbers.csv")
    write_summary(analyses, folder / "summary.json")
    return [*save_figures(analyses, folder, pdf=config.pdf), folder / "numbers.csv", folder / "summary.json"]


def _new_folder(wanted: Path) -> Path:
    """The folder for the figures: the one asked for, or where that holds an analysis already, the next free number."""
    folder, number = wanted, 1
    while (folder / "summary.json").exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _checkpoints(config: AnalyzeConfig) -> list[str | None]:
    given = config.checkpoint
    paths = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    return [str(path) for path in paths] or [None]


def _labels(config: AnalyzeConfig, checkpoints: Sequence[str | None]) -> list[str]:
    """One name for each model in the legends: those given, or the names of the run folders or files."""
    if config.labels is not None:
        if len(config.labels) != len(checkpoints) or len(set(config.labels)) != len(config.labels):
            raise ValueError(f"labels={config.labels}: expected {len(checkpoints)} different labels, one a checkpoint")
        return list(config.labels)
    labels: list[str] = []
    for checkpoint in checkpoints:
        label = _label(config, checkpoint)
        count = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({count + 1})" if count else label)
    return labels


def _label(config: AnalyzeConfig, checkpoint: str | None) -> str:
    if checkpoint is None:
        name = config.model.name if config.model else "model"
        return "-".join([name, *shape_labels(config), *enabled_techniques(config), "untrained"])
    reduced = fewer_tokens.title(fewer_tokens.reducers(config))
    return _name(Path(checkpoint).resolve()) + (f" + {reduced}" if reduced else "")


def _name(path: Path) -> str:
    if path.parent.name == "checkpoints":
        return path.parent.parent.name + ("" if path.stem == "last" else f" {path.stem}")
    return path.name if path.is_dir() else path.stem


def _analyze_one(config: AnalyzeConfig, checkpoint: str | None, label: str, world: World) -> Analysis:
    target = resolve_checkpoint(config, checkpoint) if checkpoint else untrained(config)
    weights = "untrained" if target.path is None else target.choose_one(config.weights)
    provenance = Provenance(weights, target.step, target.data.name)
    print(f"{label}: {target.path or 'random weights'}", flush=True)
    with closing(build_loader(config, target, world)) as loader:
        model = _model(target, weights, len(loader.class_names)).to(world.device)
        normalize = builders.build_normalize(target.data)

        def batches() -> Iterator[Tensor]:
            for batch in loader.evenly_spaced(config.images):
                yield normalize(batch.images.to(world.device))

        with build_precision(config.precision, world.device).autocast():
            measured = measure(
                model,
                batches(),
                label=label,
                images=config.images,
                device=world.device,
                provenance=provenance,
            )
        if config.propagation:
            images = torch.cat([*islice(batches(), 1)])[:_PROPAGATED]
            measured = replace(measured, propagation=propagation(model, images))
    print(f"  {provenance.describe(measured.images)}", flush=True)
    return measured


def _model(target: EvalTarget, weights: str, classes_of_images: int) -> nn.Module:
    model = build_model(target, len(target.class_names or ()) or classes_of_images)
    if target.path is not None:
        target.load_weights(model, weights)
    return model
