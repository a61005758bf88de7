"""What is evaluated or analyzed: a checkpoint, the configuration that builds its model, and the images it looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from vitaos.assembly import builders
from vitaos.assembly.fewer_tokens import reduce_tokens, reducers
from vitaos.assembly.model_size import check_model_size
from vitaos.assembly.stored_config import restore
from vitaos.checkpoint.folder import BEST, checkpoint_folder
from vitaos.checkpoint.resume import FORMAT, find_newest
from vitaos.checkpoint.safe_load import load_file
from vitaos.config import CheckpointSource, DataConfig, ModelConfig, RecipeConfig, TrainConfig, technique_flags
from vitaos.data import EvalLoader, default_workers
from vitaos.data.corruptions import Corruption
from vitaos.data.folder.digits import digits_folder
from vitaos.runtime.world import World
from vitaos.weights import load as weight_files
from vitaos.weights import pretrained
from vitaos.weights.hub import CONFIG_NAME, WEIGHTS_NAME
from vitaos.weights.names import has_average


@dataclass(frozen=True)
class EvalTarget:
    """A model and its images.

    Attributes:
        path: the checkpoint's file; None for an untrained model.
        content: what the file holds.
        model_config: the configuration that builds the model: the run's own, or for a foreign file the command line's.
        data: where the images lie; their size and normalization are those the model was trained with.
        img_size: side of the images in pixels.
        recipe: brings the evaluation's crop.
        class_names: what the model's answers mean, in their order; None where the file does not hold them.
        reduced: the techniques of the command line that make tokens fewer: name -> True or options.
        has_saved_size: whether the file itself describes the model, and the images are of its size in there.
    """

    path: Path | None
    content: Mapping[str, Any]
    model_config: TrainConfig | CheckpointSource
    data: DataConfig
    img_size: int
    recipe: RecipeConfig
    class_names: list[str] | None
    reduced: Mapping[str, Any] = field(default_factory=dict)
    has_saved_size: bool = False

    @property
    def file(self) -> Path:
        """The checkpoint's file, where there is a checkpoint."""
        assert self.path is not None, "an untrained model has no file"
        return self.path

    def choose_weights(self, wanted: str) -> list[str]:
        """``raw`` and ``ema`` as asked for; ``both`` means those that the file has.

        Raises:
            ValueError: the running average is asked for, and there is none.
        """
        averaged = has_average(self.content)
        if wanted == "ema" and not averaged:
            raise ValueError(f"weights=ema: {self.path} holds no running average of the weights; use weights=raw")
        return {"raw": ["raw"], "ema": ["ema"], "both": ["raw", "ema"] if averaged else ["raw"]}[wanted]

    def choose_one(self, wanted: str) -> str:
        """``raw`` or ``ema``: what is asked for; ``auto`` means the running average where the file has one.

        Raises:
            ValueError: as :meth:`choose_weights`.
        """
        return self.choose_weights("both" if wanted == "auto" else wanted)[-1]

    @property
    def step(self) -> int | None:
        """The training step of the checkpoint; None for files that do not record one."""
        progress = self.content.get("progress")
        step = progress.get("step") if isinstance(progress, Mapping) else None
        return step if isinstance(step, int) else None

    def load_weights(self, model: nn.Module, weights: str, *, classifier: str = "strict") -> None:
        """Load ``raw`` or ``ema`` weights into the model; `classifier` as in :func:`vitaos.weights.load.load_weights`.

        Raises:
            ValueError: naming the file: they are not this model's.
        """
        try:
            load = weight_files.load_saved if self.has_saved_size else weight_files.load_weights
            load(model, self.content, weights="ema" if weights == "ema" else "model", classifier=classifier)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def resolve_checkpoint(source: CheckpointSource, checkpoint: str) -> EvalTarget:
    """Read a checkpoint and decide what describes it: a run folder, a file, or a folder of ``vitaos export``.

    ``token_merging`` and ``token_selection`` of the command line act on any of them (``fewer_tokens``).

    Raises:
        ValueError: no such checkpoint, an exported folder without ``data``, a foreign file without ``model`` or
            ``data``, or a technique that the checkpoint was not trained with.
    """
    if is_exported(Path(checkpoint)):
        return exported_target(source, Path(checkpoint))
    path, content = _read(Path(checkpoint))
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no weights: expected a dict, found {type(content).__name__}")
    if content.get("format") == FORMAT:
        run: TrainConfig = reduce_tokens(restore(content.get("config"), path), source, path)
        data = _seen_as_in_training(run.data, source.data)
        size = source.img_size or run.data.img_size
        names = _class_names(content, path)
        same = size == run.data.img_size
        return EvalTarget(path, content, run, data, size, run.recipe, names, reducers(source), has_saved_size=same)
    if source.model is None or source.data is None:
        raise ValueError(
            f"{path} is no vitaos checkpoint and does not say what it is: add model=NAME (with depth and techniques as "
            "it was trained) and data=..., for example model=deit_s24 attnscale=true data=imagenet data.root=DIR"
        )
    return _described_by(source, source.data, path, content)


def is_exported(folder: Path) -> bool:
    """Whether it is a folder that ``vitaos export`` wrote, or one of timm's."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def exported_target(source: CheckpointSource, folder: Path) -> EvalTarget:
    """The model that an exported folder describes, and the images of the command line as it wants to see them.

    Raises:
        ValueError: no images are named, the folder describes no model, or another technique is asked for.
    """
    if source.data is None:
        raise ValueError(f"{folder} is an exported model and has no images with it: add data=NAME data.root=DIR")
    told = pretrained.describe(folder)
    unknown = sorted(set(told.techniques) - set(technique_flags(source)))
    if unknown:
        raise ValueError(f"{folder}: {CONFIG_NAME} names a technique that is none: {', '.join(unknown)}")
    keywords, seen = dict(told.keywords), told.preprocessing
    depth, size = keywords.pop("depth", None), keywords.pop("img_size", None)
    names = told.class_names
    try:
        if "input_size" in seen and seen["input_size"][-1] != seen["input_size"][-2]:
            high, wide = seen["input_size"][-2:]
            raise ValueError(f"its images are {high} x {wide}, and square ones are read here: vitaos.from_pretrained")
        size = seen["input_size"][-1] if "input_size" in seen else int(size or source.data.img_size)
        data = replace(
            source.data,
            mean=[float(value) for value in seen.get("mean", source.data.mean)],
            std=[float(value) for value in seen.get("std", source.data.std)],
            resize="area" if seen.get("interpolation") == "box" else "bicubic",
        )
        recipe = replace(source.recipe, eval_crop=float(seen.get("crop_pct", source.recipe.eval_crop)))
        names = None if names is None else [str(name) for name in names]
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(f"{folder}: {CONFIG_NAME} is damaged or not for this: {error}") from error
    flags: dict[str, Any] = dict.fromkeys(technique_flags(source), False)
    flags |= {name: options if options != {} else True for name, options in told.techniques.items()}
    described = replace(
        source,
        model=ModelConfig(told.name, keywords),
        depth=depth,
        skip_gain=told.skip_gain,
        **flags,
    )
    described, path = reduce_tokens(described, source, folder), folder / WEIGHTS_NAME
    same, size = source.img_size in (None, size), source.img_size or size
    return EvalTarget(
        path, load_file(path), described, data, size, recipe, names, reducers(source), has_saved_size=same
    )


def untrained(source: CheckpointSource) -> EvalTarget:
    """The model that the configuration describes, with its initial weights.

    Raises:
        ValueError: the configuration describes no model or no images.
    """
    if source.model is None or source.data is None:
        raise ValueError(
            "nothing to analyze: give checkpoint=RUN_OR_FILE (or a list, checkpoint=[A,B]), or for an untrained model "
            "model=NAME and data=..., for example model=deit_s24 data=imagenet data.root=DIR"
        )
    return _described_by(source, source.data, None, {})


def build_loader(
    source: CheckpointSource,
    target: EvalTarget,
    world: World,
    *,
    part: Literal["train", "val"] = "val",
    corruption: Corruption | None = None,
    whole: bool = False,
) -> EvalLoader:
    """This rank's share of the images; `whole` ones are cut out already (unless the command line gives a crop)."""
    return builders.build_eval_loader(
        target.data,
        world=world,
        img_size=target.img_size,
        eval_crop=source.eval_crop or (1.0 if whole else target.recipe.eval_crop),
        batch_size=source.batch_size,
        part=part,
        corruption=corruption,
    )


def build_model(target: EvalTarget, num_classes: int) -> nn.Module:
    """The model with its initial weights, without the dropout of its training.

    Raises:
        ValueError: what describes it (named) describes no model.
    """

    def build() -> nn.Module:
        return builders.build_model(target.model_config, num_classes, img_size=target.img_size)

    try:
        if isinstance(target.model_config, TrainConfig):  # what a file says of itself
            stored = target.model_config
            check_model_size(build, {**stored.model.keywords, "depth": stored.depth}, target.content.get("model"))
        return build()
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # Keywords of a stored configuration reach timm as they are, and it answers values of a wrong kind in any way.
        if target.path is None and isinstance(error, ValueError):
            raise
        described = target.model_config.model
        source = target.path or (f"model={described.name}" if described else "the model")
        raise ValueError(f"{source}: its model cannot be built: {type(error).__name__}: {error}") from error


def _described_by(
    source: CheckpointSource, data: DataConfig, path: Path | None, content: Mapping[str, Any]
) -> EvalTarget:
    size = source.img_size or data.img_size
    return EvalTarget(path, content, source, data, size, source.recipe, None, reducers(source))


def _read(path: Path) -> tuple[Path, Any]:
    """A checkpoint's file and what it holds; a run folder means its newest whole checkpoint."""
    if not path.is_dir():
        return path, load_file(path)
    found = find_newest(path)
    if found is None:
        best = checkpoint_folder(path) / BEST
        there = f"{BEST} alone (checkpoint={best} evaluates it)" if best.exists() else "no checkpoint"
        raise ValueError(f"checkpoint={path}: {there} in that folder; expected a run folder or a file")
    return found.path, found.contents


def _seen_as_in_training(trained_on: DataConfig, elsewhere: DataConfig | None) -> DataConfig:
    """The data of the command line with the normalization and resizing that the model was trained with."""
    if elsewhere is None:
        return _only_read(trained_on)
    return replace(elsewhere, mean=trained_on.mean, std=trained_on.std, resize=trained_on.resize)


def _only_read(data: DataConfig) -> DataConfig:
    """Stored data as it lies there: a file does not decide where the digits are written when they are missing, nor how
    many processes start."""
    if data.workers is not None:
        data = replace(data, workers=min(data.workers, default_workers()))
    if data.kind != "digits":
        return data
    return replace(
        data,
        kind=data.loader,
        root=str(digits_folder(data.root, ffcv=data.loader == "ffcv")),
        prepare="The digits that this checkpoint was trained on are not there: add data=digits data.root=DIR",
    )


def _class_names(content: Mapping[str, Any], path: Path) -> list[str] | None:
    names = content.get("class_names")
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return names
    raise ValueError(f"{path}: its class_names are no list of names")
