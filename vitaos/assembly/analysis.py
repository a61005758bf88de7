"""An analysis of one or several models: what is looked at, on which images, and where the figures go."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from vitaos import config as configuration
from vitaos.analysis.export import write_csv, write_summary
from vitaos.analysis.figures import save_figures
from vitaos.analysis.measure import Analysis, measure
from vitaos.assembly import builders, evaluation
from vitaos.assembly import fingerprint as identity
from vitaos.config import DataConfig, ModelConfig, RecipeConfig
from vitaos.data import EvalLoader
from vitaos.engine.precision import build_precision
from vitaos.runtime.world import World
from vitaos.weights import load as weight_files


@dataclass
class AnalyzeConfig:
    """Everything about an analysis.

    ``checkpoint`` is a run folder or a file, or a list of them; ``model``, ``depth``, ``recipe`` and the techniques
    describe a foreign file or, without a checkpoint, an untrained model. ``data`` defaults to each run's own.
    """

    checkpoint: Any = None
    labels: list[str] | None = None
    images: int = field(default=256, metadata={"low": 1})
    weights: str = field(default="auto", metadata={"choices": ("auto", "ema", "raw")})
    model: ModelConfig | None = None
    depth: int | None = field(default=None, metadata={"low": 1})
    skip_gain: float = field(default=1.0, metadata={"low": 0, "high": 1})
    data: DataConfig | None = None
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    img_size: int | None = field(default=None, metadata={"low": 1})
    eval_crop: float | None = field(default=None, metadata={"low": 0.1, "high": 1})
    batch_size: int = field(default=32, metadata={"low": 1})
    seed: int = field(default=0, metadata={"low": 0})
    device: str = field(default="auto", metadata={"choices": ("auto", "cpu", "cuda")})
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16", "fp16")})
    out: str = "analysis"
    pdf: bool = False


ANALYZE_SCHEMA: Final = configuration.schema(AnalyzeConfig, identity.TOGGLES, known_as=(__name__, "ANALYZE_SCHEMA"))


def analyze(config: AnalyzeConfig, world: World) -> list[Path]:
    """Measure every model and write figures, CSV and summary.

    Returns:
        The files written.

    Raises:
        ValueError: nothing to analyse, or something that cannot be; the message says what would be right.
    """
    checkpoints = _checkpoints(config)
    labels = _labels(config, checkpoints)
    analyses = [_analyze_one(config, path, label, world) for path, label in zip(checkpoints, labels, strict=True)]
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(analyses, folder / "numbers.csv")
    write_summary(analyses, folder / "summary.json")
    return [*save_figures(analyses, folder, pdf=config.pdf), folder / "numbers.csv", folder / "summary.json"]


def _checkpoints(config: AnalyzeConfig) -> list[str | None]:
    given = config.checkpoint
    paths = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    if paths:
        return [str(path) for path in paths]
    if config.model is None or config.data is None:
        raise ValueError(
            "nothing to analyse: give checkpoint=RUN_OR_FILE (or a list, checkpoint=[A,B]), or for an untrained model "
            "model=NAME and data=..., for example model=deit_s24 data=imagenet data.root=DIR"
        )
    return [None]


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
        assert config.model is not None
        switched = configuration.techniques_of(config, identity.TOGGLES)
        return "-".join([config.model.name, *identity.shape_labels(config), *switched, "untrained"])
    path = Path(checkpoint).resolve()
    if path.parent.name == "checkpoints":
        return path.parent.parent.name + ("" if path.stem == "last" else f" {path.stem}")
    return path.name if path.is_dir() else path.stem


def _analyze_one(config: AnalyzeConfig, checkpoint: str | None, label: str, world: World) -> Analysis:
    request = _as_evaluation(config, checkpoint)
    if checkpoint is None:
        assert config.data is not None
        size = config.img_size or config.data.img_size
        subject = evaluation.Subject(Path(), {}, request, config.data, size, config.recipe, None)
    else:
        subject = evaluation.open_subject(request)
    print(f"{label}: {subject.path if checkpoint else 'random weights'}, images of {subject.data.name}", flush=True)
    with closing(evaluation.loader_of(request, subject, world)) as loader:
        model = _model(config, subject, loader, has_weights=checkpoint is not None).to(world.device)
        normalize = builders.normalize_of(subject.data)

        def batches() -> Iterator[Tensor]:
            for batch in loader.evenly_spaced(config.images):
                yield normalize(batch.images.to(world.device))

        with build_precision(config.precision, world.device).autocast():
            return measure(model, batches(), label=label, images=config.images, device=world.device)


def _as_evaluation(config: AnalyzeConfig, checkpoint: str | None) -> Any:
    """The same wishes as an evaluation's, whose rules for checkpoints and data hold here too."""
    shared = {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(identity.EVAL_SCHEMA)}
    wishes = {name: getattr(config, name) for name in shared - {"checkpoint", "out", "weights", "data"}}
    data = dataclasses.replace(config.data) if config.data else None  # each checkpoint brings its own normalisation
    return identity.EVAL_SCHEMA(checkpoint=checkpoint, data=data, **wishes)


def _model(config: AnalyzeConfig, subject: evaluation.Subject, loader: EvalLoader, *, has_weights: bool) -> nn.Module:
    if not has_weights:
        return builders.model_of(config, len(loader.class_names), img_size=subject.img_size)
    classes = len(subject.class_names or loader.class_names)
    model = builders.model_of(subject.described, classes, img_size=subject.img_size)
    chosen = subject.choose_weights("both" if config.weights == "auto" else config.weights)[-1]
    weight_files.load_weights(model, subject.content, weights="ema" if chosen == "ema" else "model")
    return model
