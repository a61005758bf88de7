"""The teacher of a distilled run: ``teacher.*`` of the configuration -> a trained model that answers its images."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from vitaos import techniques
from vitaos.assembly import eval_target
from vitaos.assembly.initial_weights import choose_weights
from vitaos.assembly.stored_config import restore
from vitaos.checkpoint.resume import FORMAT
from vitaos.checkpoint.safe_load import load_file
from vitaos.config import TeacherConfig, TrainConfig
from vitaos.engine import compilation
from vitaos.engine.distillation import Teacher
from vitaos.engine.precision import build_precision
from vitaos.models import create_model
from vitaos.runtime.world import World
from vitaos.weights import sources
from vitaos.weights.hub import CONFIG_NAME, HUB_PREFIX
from vitaos.weights.load import ClassCountError, load_weights
from vitaos.weights.pretrained import from_pretrained


class _Found(NamedTuple):
    """A teacher as its source describes it; `class_names` where it does."""

    model: nn.Module
    img_size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str] | None = None


def build_teacher(config: TrainConfig, world: World, num_classes: int, class_names: Sequence[str]) -> Teacher | None:
    """The teacher on this rank's device; None where nothing is distilled. A collective call.

    Raises:
        ValueError: naming ``teacher.source``: no such source, not enough said of it, other classes than the data's, or
            the ranks have different ones.
    """
    if config.recipe.distillation == "none":
        return None
    chosen = config.teacher
    try:
        found = _find(chosen, num_classes)
        found = _resized(found, chosen.img_size)
        _check_classes(found, num_classes, class_names)
        _check_answers(found, num_classes)
        teacher = _teacher(config, found, world)
    except ValueError as error:
        raise ValueError(f"teacher.source={chosen.source}: {error}") from error
    if len({identity["weights"] for identity in world.gather_objects(teacher.identity)}) > 1:
        raise ValueError(f"teacher.source={chosen.source}: the ranks read different weights; copy the file again")
    return teacher


def check_same_teacher(before: Any, teacher: Teacher | None, path: Path) -> None:
    """Refuse to go on with another teacher than the one in a checkpoint, which holds its identity and not its weights.

    Args:
        before: what the checkpoint says of its teacher.
        teacher: of this start.
        path: the checkpoint.

    Raises:
        ValueError: naming what differs.
    """
    here = {} if teacher is None else teacher.identity
    there = before if isinstance(before, Mapping) else {}
    differing = [
        f"{key}: {str(there.get(key))[:40]} there, {str(here.get(key))[:40]} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise ValueError(
            f"{path} was distilled from another teacher ({'; '.join(differing)}). Give this run another name=, or the "
            "teacher it began with; to start from its weights alone use init=FILE"
        )


def _teacher(config: TrainConfig, found: _Found, world: World) -> Teacher:
    mean, std = config.teacher.mean or found.mean, config.teacher.std or found.std
    identity = {
        "architecture": _architecture(found.model),
        "img_size": list(found.img_size),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "weights": _digest(found.model.state_dict()),
    }
    model = found.model.to(world.device)
    return Teacher(
        model.to(memory_format=torch.channels_last) if config.channels_last else model,
        img_size=found.img_size,
        mean=mean,
        std=std,
        student_mean=config.data.mean,
        student_std=config.data.std,
        precision=build_precision(config.precision, world.device),
        compilation=compilation.choose(config.compile, world.device),
        identity=identity,
    )


def _find(chosen: TeacherConfig, num_classes: int) -> _Found:
    source = str(chosen.source)
    path = Path(source)
    if chosen.model is None:
        if source.startswith(HUB_PREFIX) or (path / CONFIG_NAME).is_file():
            model: Any = from_pretrained(source)
            return _described_by_timm(model, names=model.pretrained_cfg.get("label_names"))
        if not path.exists() and not timm.is_model(source):
            raise ValueError(
                "no such file or folder, nor a name of timm's. Expected a file, a run folder, an exported folder, "
                f"{HUB_PREFIX}OWNER/NAME, or a name of timm's weights (regnety_160.deit_in1k)"
            )
    name = chosen.model or ("" if path.exists() else source)
    model = None
    if name:
        size = {} if chosen.img_size is None else {"img_size": chosen.img_size}
        model = create_model(name, num_classes=num_classes, **size, **chosen.keywords)
    found = sources.find(source, model if model is not None else nn.Module())
    content = load_file(found.path) if found.content is None else found.content
    weights = choose_weights(chosen.weights, content, found.path, key="teacher.weights")
    if model is None:
        return _of_run(content, found.path, weights)
    try:
        load_weights(model, content, weights=weights)
    except ClassCountError as error:
        raise _other_classes(error.stored, num_classes) from error
    described = _described_by_timm(model)
    images = found.preprocessing
    return described._replace(mean=images.get("mean") or described.mean, std=images.get("std") or described.std)


def _of_run(content: Any, path: Path, weights: str) -> _Found:
    """The teacher that a checkpoint of vitaos describes."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} does not say which model it is of: add teacher.model=NAME, a name of vitaos or timm, and where "
            "it needs them teacher.keywords, teacher.mean and teacher.std"
        )
    run: TrainConfig = restore(content.get("config"), path)
    names = content.get("class_names")
    classes = len(names) if isinstance(names, list) else run.data.num_classes
    if classes is None:
        raise ValueError(f"{path} does not say how many classes it answers")
    size = run.data.img_size
    target = eval_target.EvalTarget(path, content, run, run.data, size, run.recipe, names, has_saved_size=True)
    model = eval_target.build_model(target, classes)
    target.load_weights(model, "ema" if weights == "ema" else "raw")
    return _Found(model, (size, size), run.data.mean, run.data.std, names)


def _described_by_timm(model: Any, names: Any = None) -> _Found:
    described = model.pretrained_cfg
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or described["input_size"][-2:]
    height, width = (size, size) if isinstance(size, int) else size
    known = list(names) if isinstance(names, list | tuple) else None
    return _Found(model, (int(height), int(width)), described["mean"], described["std"], known)


def _resized(found: _Found, img_size: int | None) -> _Found:
    """The teacher for images of another size than its own: its position embeddings are interpolated."""
    if img_size is None or found.img_size == (img_size, img_size):
        return found
    model: Any = found.model
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=img_size)
    elif hasattr(model, "pos_embed"):
        raise ValueError(f"teacher.img_size={img_size}: {type(model).__name__} takes images of {found.img_size} alone")
    return found._replace(img_size=(img_size, img_size))


def _check_classes(found: _Found, num_classes: int, class_names: Sequence[str]) -> None:
    answered = int(getattr(found.model, "num_classes", num_classes))
    if answered != num_classes:
        raise _other_classes(answered, num_classes)
    names = found.class_names
    if names is not None and list(names) != list(class_names) and set(names) & set(class_names):
        raise ValueError("its classes are the data's in another order, or others: an answer must mean the same")


def _check_answers(found: _Found, num_classes: int) -> None:
    """Let the model answer one image, before anything waits for it."""
    with torch.no_grad():
        answers = found.model.eval()(torch.zeros(1, 3, *found.img_size))
    shape = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
    if shape != (1, num_classes):
        raise ValueError(f"it answers an image with {shape}, expected (1, {num_classes}): it is no classifier")


def _other_classes(answered: int, num_classes: int) -> ValueError:
    return ValueError(
        f"the teacher answers {answered} classes, the data have {num_classes}: a teacher is trained on the student's "
        "own classes (fine-tune it first: init=SOURCE recipe=finetune)"
    )


def _architecture(model: Any) -> str:
    """Backbone, techniques and skip gain: what weights alone do not say."""
    backbone = str(model.pretrained_cfg.get("architecture") or type(model).__name__)
    attached = {name: dict(options) for name, options in sorted(techniques.attached(model).items())}
    return f"{backbone} {attached} skip_gain={techniques.skip_gain_of(model):g}"


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
