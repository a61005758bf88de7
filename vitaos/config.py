"""The configuration of a run: YAML selects, these dataclasses declare.

Hydra composes the files under ``configs/``; ``config_check.py`` turns the result into the dataclasses below. Everything
here happens before any data or device is touched; the names of the techniques come in as an argument of :func:`schema`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import Any, Final, TypeVar, get_type_hints


class ConfigError(ValueError):
    """A configuration that cannot be run: the message names the key and what would be right."""


LOCAL: Final = "local"
"""Mark of keys that may differ between the starts of a run, and between runs that are compared: where a run runs, what
it writes and shows, not what it computes."""
PER_START: Final = "per_start"
"""Mark of keys that may differ between the starts of a run although they change what comes out: how far it goes, where
it came from, how a global batch is divided."""


def _one_of(default: Any, *choices: Any, mark: str | None = None, added: bool = False) -> Any:
    return field(default=default, metadata={"choices": choices, "mark": mark, "added": added})


def _within(
    default: Any, low: float | None = None, high: float | None = None, mark: str | None = None, *, added: bool = False
) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "mark": mark, "added": added})


def _marked(mark: str, default: Any) -> Any:
    return field(default=default, metadata={"mark": mark})


@dataclass
class ModelConfig:
    """A backbone: one of vitaos' names or any timm name, and further keywords for its timm class."""

    name: str = "deit_s12"
    keywords: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """A dataset and how it is read; ``vitaos.data.DataSource`` and ``vitaos.data.ReadSettings``.

    ``root`` holds both parts; ``train`` and ``val`` name either elsewhere. Digits exist as both: ``loader`` chooses.
    """

    name: str = "imagenet"
    kind: str = _one_of("folder", "folder", "ffcv", "digits")
    loader: str = _one_of("ffcv", "ffcv", "folder", mark=LOCAL)
    root: str | None = _marked(LOCAL, None)
    train: str | None = _marked(LOCAL, None)
    val: str | None = _marked(LOCAL, None)
    num_classes: int | None = _within(None, 1)
    img_size: int = _within(224, 1)
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    resize: str = _one_of("bicubic", "bicubic", "area")
    workers: int | None = _within(None, 0, mark=LOCAL)
    eval_batch_size: int | None = _within(None, 1, mark=LOCAL)
    on_bad: str | None = _one_of(None, None, "fail", "skip")
    in_memory: bool = _marked(LOCAL, False)
    prepare: str = _marked(LOCAL, "")


@dataclass
class RecipeConfig:
    """One column of the recipes: optimisation, regularisation and augmentation. Sources stand in ``configs/recipe``."""

    name: str = _marked(LOCAL, "custom")
    epochs: int = _within(300, 1, mark=LOCAL)
    batch_size: int = _within(256, 1, mark=LOCAL)
    # optimisation
    lr: float = _within(5e-4, 0)
    lr_reference_batch: int | None = _within(512, 1)
    weight_decay: float = _within(0.05, 0)
    schedule: str = _one_of("release", "release", "textbook")
    schedule_unit: str = _one_of("epoch", "epoch", "step")
    warmup_epochs: int = _within(5, 0)
    warmup_lr: float = _within(1e-6, 0)
    min_lr: float = _within(1e-5, 0)
    scale_warmup_and_floor: bool = False
    clip: float | None = _within(None, 0)
    ema_decay: float | None = _within(None, 0, 1)
    ema_warmup: bool = False
    # regularisation
    drop_path: float = _within(0.0, 0, 1)
    pos_drop: float = _within(0.0, 0, 1)
    proj_drop: float = _within(0.0, 0, 1)
    smoothing: float = _within(0.0, 0, 1)
    # augmentation
    repeats: int = _within(1, 1)
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    hflip: float = _within(0.5, 0, 1)
    randaugment: str | None = None
    three_augment: bool = False
    color_jitter: float = _within(0.0, 0)
    erasing: float = _within(0.0, 0, 1)
    erasing_mode: str = _one_of("pixel", "pixel", "rand", "const", added=True)
    erasing_count: int = _within(1, 1, added=True)
    mixup: float = _within(0.0, 0)
    cutmix: float = _within(0.0, 0)
    mix_probability: float = _within(1.0, 0, 1)
    mix_switch: float = _within(0.5, 0, 1)
    # evaluation: the shorter side is resized to img_size / eval_crop, then the centre is cut
    eval_crop: float = _within(0.875, 0.1, 1)


@dataclass
class OptimizerConfig:
    """``adamw`` is torch's fused one; ``apex_adam`` and ``apex_lamb`` are NVIDIA apex's; any other name is timm's.

    ``betas`` and ``eps`` of null are the optimizer's own; the check writes out those of AdamW.
    """

    name: str = "adamw"
    betas: list[float] | None = None
    eps: float | None = _within(None, 0)
    fused: bool = True


@dataclass
class LoggerConfig:
    """Where metrics go besides ``metrics.jsonl``."""

    name: str = _one_of("none", "none", "wandb")
    project: str = "vitaos"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: str = _one_of("auto", "auto", "online", "offline")


@dataclass
class MonitorConfig:
    """Oversmoothing measures on held-out images, every so many epochs and at the last one (0: off).

    ``images`` defaults to 64, or fewer where those would take more than 1% of an epoch.
    """

    every: int = _within(0, 0)
    images: int | None = _within(None, 1, 1024)


@dataclass
class TrainConfig:
    """Everything about a training run; :func:`schema` adds one key for each technique."""

    model: ModelConfig = field(default_factory=ModelConfig)
    depth: int | None = _within(None, 1)
    skip_gain: float = _within(1.0, 0, 1, added=True)
    data: DataConfig = field(default_factory=DataConfig)
    augment: str = _one_of("device", "device", "timm")
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig, metadata={"mark": LOCAL})
    monitor: MonitorConfig = field(default_factory=MonitorConfig, metadata={"mark": LOCAL})
    init: str | None = _marked(PER_START, None)
    epochs: int = _within(300, 1, mark=PER_START)
    steps: int | None = _within(None, 1, mark=PER_START)
    batch_size: int = _within(256, 1, mark=PER_START)
    accumulate: int = _within(1, 1, mark=PER_START)
    seed: int = _within(0, 0)
    device: str = _one_of("auto", "auto", "cpu", "cuda", mark=LOCAL)
    precision: str = _one_of("bf16", "bf16", "fp16", "fp32")
    compile: bool = _marked(LOCAL, False)
    channels_last: bool = _marked(LOCAL, False)
    checkpoint_gradients: bool = _marked(LOCAL, False)
    deterministic: bool = _marked(LOCAL, False)
    nonfinite: str = _one_of("stop", "stop", "skip")
    evaluate_every: int = _within(1, 1)
    log_every: int = _within(50, 1, mark=LOCAL)
    out: str = _marked(LOCAL, "runs")
    name: str | None = _marked(LOCAL, None)
    resume: str = _marked(LOCAL, "auto")
    checkpoint_every: int | None = _within(None, 1, mark=LOCAL)
    keep: int = _within(2, 2, mark=LOCAL)


@dataclass
class CheckpointSource:
    """Which model is looked at and on which images: what an evaluation and an analysis have in common.

    ``model``, ``depth``, ``recipe`` and the techniques describe a foreign file; a vitaos checkpoint describes itself.
    ``data`` defaults to what the checkpoint says of itself.
    """

    checkpoint: Any = None
    model: ModelConfig | None = None
    depth: int | None = _within(None, 1)
    skip_gain: float = _within(1.0, 0, 1)
    data: DataConfig | None = None
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    img_size: int | None = _within(None, 1)
    eval_crop: float | None = _within(None, 0.1, 1)
    batch_size: int = _within(256, 1)
    device: str = _one_of("auto", "auto", "cpu", "cuda")
    precision: str = _one_of("fp32", "bf16", "fp16", "fp32")


@dataclass
class EvalConfig(CheckpointSource):
    """Everything about an evaluation."""

    checkpoint: str | None = None
    dataset: str = _one_of("val", "val", "real", "v2", "a", "r", "sketch")
    real_labels: str | None = None
    predictions: bool = True
    weights: str = _one_of("both", "ema", "raw", "both")
    compile: bool = False
    channels_last: bool = False
    out: str | None = None


@dataclass
class AnalyzeConfig(CheckpointSource):
    """Everything about an analysis.

    ``checkpoint`` is a run folder or a file, or a list of them; without one an untrained model is analysed.
    """

    labels: list[str] | None = None
    images: int = _within(256, 1)
    weights: str = _one_of("auto", "auto", "ema", "raw")
    batch_size: int = _within(32, 1)
    seed: int = _within(0, 0)
    out: str = "analysis"
    pdf: bool = False


@dataclass
class ExportConfig(CheckpointSource):
    """Everything about an export: ``out`` is a new folder, ``license`` what its model card says."""

    format: str = _one_of("safetensors", "safetensors", "onnx", "torch_export")
    weights: str = _one_of("auto", "auto", "ema", "raw")
    out: str | None = None
    license: str = "unknown"


def added_keys(section: Any = TrainConfig, prefix: str = "") -> dict[str, Any]:
    """Keys that came after the first run folders were written (dotted), and their defaults.

    A run whose added key is at its default is the run that it was before the key existed: such keys are no part of its
    name and of what must agree when it goes on.
    """
    found: dict[str, Any] = {}
    for declared in fields(section):
        key = f"{prefix}{declared.name}"
        if declared.metadata.get("added"):
            found[key] = declared.default
        elif declared.default_factory is not MISSING and is_dataclass(declared.default_factory):
            found |= added_keys(declared.default_factory, f"{key}.")
    return found


Config = TypeVar("Config")


def schema(base: type[Config], techniques: Iterable[str], *, known_as: tuple[str, str] | None = None) -> type[Config]:
    """Extend a configuration dataclass by one key for each technique: a boolean, or a mapping of its options.

    ``known_as`` is the module and the name there under which the class will be found: a sweep's job on another machine
    has to find it there, since a pickled copy of a dataclass no longer knows which of its keys have no default.
    """
    extra = [(name, Any, field(default=False, metadata={"technique": True})) for name in techniques]
    made = make_dataclass(base.__name__, extra, bases=(base,))
    if known_as:
        made.__module__, made.__qualname__ = known_as
    return made


def technique_flags(config: Any) -> list[str]:
    """Names of the techniques among the keys of a configuration or of its class."""
    return [key.name for key in fields(config) if key.metadata.get("technique")]


def enabled_techniques(config: Any) -> dict[str, bool | dict[str, Any]]:
    """The techniques that a checked configuration switches on: name -> True or options (none: its defaults)."""
    values = {name: getattr(config, name) for name in technique_flags(config)}
    return {name: value for name, value in values.items() if value not in (None, False)}


def marked_keys(section: Any, *marks: str) -> set[str]:
    """Dotted names of the keys, and of whole sections, of a configuration dataclass that carry one of the marks."""
    found = set()
    for key, kind in _declared(section):
        if key.metadata.get("mark") in marks:
            found.add(key.name)
        elif is_dataclass(kind):
            found |= {f"{key.name}.{name}" for name in marked_keys(kind, *marks)}
    return found


def without_keys(flat: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """A flat configuration without some keys and sections."""
    sections = tuple(f"{name}." for name in left_out)
    return {key: value for key, value in flat.items() if key not in left_out and not key.startswith(sections)}


def flatten(tree: Any, whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys; mappings under the keys in `whole`, and empty ones, stay values."""
    if not isinstance(tree, Mapping) or not tree or prefix in whole:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, whole, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _declared(section: Any) -> Iterator[tuple[Field[Any], Any]]:
    """The fields of a configuration dataclass with their types."""
    kinds = get_type_hints(section)
    return ((key, kinds[key.name]) for key in fields(section))
