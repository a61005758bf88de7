"""Where a run starts: its folder, the checkpoint it goes on from, and whether that is the same run on the same data."""

import glob
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vitaos.assembly import builders, fingerprint
from vitaos.assembly.initial_weights import load_initial_weights
from vitaos.assembly.stored_config import restore
from vitaos.assembly.teacher import check_same_teacher
from vitaos.checkpoint.resume import ResumePoint, find_newest, find_resume, load_checkpoint, resume_source
from vitaos.config import DataConfig, TrainConfig
from vitaos.data import Loaders
from vitaos.data.fingerprint import differences
from vitaos.engine.distillation import Teacher
from vitaos.engine.trainer import Trainer
from vitaos.outputs.run_dir import RunDir
from vitaos.runtime.world import World

Result = TypeVar("Result")


def on_main(world: World, action: Callable[[], Result]) -> Result:
    """Do something on the main rank alone and give its result, or its complaint to the user, to every rank."""
    result: Any = None
    complaint: str | None = None
    if world.is_main:
        try:
            result = action()
        except ValueError as error:
            complaint = str(error)
    result, complaint = world.broadcast_object((result, complaint))
    if complaint is not None:
        raise ValueError(complaint)
    return result


def choose_run_folder(config: TrainConfig, world: World, data: dict[str, Any]) -> RunDir:
    """The folder of the run, the same on every rank; not opened yet.

    Raises:
        ValueError: on every rank: the ranks see different data (`data`: this rank's fingerprints), the name leads out
            of the folder of runs, or the run would begin anew since its data was changed.
    """
    _check_ranks_share_data(world, data)

    def choose() -> Path:
        out = Path(config.out)
        unnamed = out / fingerprint.run_name(config, world.size)
        if config.name or RunDir(unnamed).has_checkpoint:  # of a version whose names did not tell data apart
            return unnamed
        chosen = out / fingerprint.run_name(config, world.size, data)
        if not RunDir(chosen).has_checkpoint:
            _check_not_changed(config, data, out.glob(f"{glob.escape(unnamed.name)}-??????"))
        return chosen

    return RunDir(on_main(world, choose))


def open_run_folder(
    config: TrainConfig, folder: RunDir, world: World, loaders: Loaders, teacher: Teacher | None = None
) -> ResumePoint | None:
    """Take the run folder and find the checkpoint to go on from, if there is one.

    Raises:
        ValueError: on every rank: the weights to start from cannot be used, or the folder is in use, must not be
            continued, or belongs to another run, other data or another teacher.
    """

    contents: Mapping[str, Any] | None = None  # they stay on the rank that read them

    def find() -> ResumePoint | None:
        nonlocal contents
        if not folder.has_checkpoint:
            _check_sources(config, loaders.num_classes)
        folder.open(config.resume)
        found = find_resume(config.resume, folder.checkpoints, mmap=_is_mapped(world))
        if found is None:
            return None
        before = restore(found.config, found.path)
        fingerprint.check_same_run(before, config)
        _check_same_data(found, loaders.fingerprint)
        check_same_teacher((found.contents or {}).get("teacher"), teacher, found.path)
        notes = _notes_on_resuming(config, folder, found, before)
        contents = found.contents
        return found._replace(notes=(*found.notes, *notes), contents=None)

    found = on_main(world, find)
    return None if found is None else found._replace(contents=contents)


def _is_mapped(world: World) -> bool:
    """Whether ranks share one mapped copy of a checkpoint: on GPUs, where nothing of it stays in host memory."""
    return world.device.type == "cuda"


def _check_sources(config: TrainConfig, num_classes: int) -> None:
    """Refuse what a run cannot start from before its folder is made."""
    if config.resume not in ("auto", "never"):
        resume_source(config.resume)
    elif config.init:
        load_initial_weights(config, builders.build_model(config, num_classes, recipe=config.recipe))


def _notes_on_resuming(config: TrainConfig, folder: RunDir, found: ResumePoint, before: TrainConfig) -> list[str]:
    """What of this start's configuration does not act, or acts otherwise than at the run's first start.

    Raises:
        ValueError: ``resume`` names an older checkpoint of this same run, to which it would not go back.
    """
    notes = []
    if found.data is None:
        notes.append(f"{found.path} does not say which data it was trained on: that it was this is not checked")
    if before.epochs != config.epochs:
        notes.append(
            f"epochs: {before.epochs} there, {config.epochs} here: the schedule is another, and the learning rate "
            f"goes on from step {found.step} of the new one"
        )
    if config.init:
        notes.append(f"init={config.init} is not read: the run goes on from {found.path}")
    source = Path(config.resume)
    if config.resume == "auto" or _is_within(found.path, source):
        return notes
    if folder.path.resolve() in source.resolve().parents:
        raise ValueError(
            f"resume={source} is a checkpoint of this run itself, which goes on from its newest, {found.path} (step "
            f"{found.step}); to go back to the older one, give the run another name= as well"
        )
    absent = "" if source.exists() else " (nothing is there)"
    return [*notes, f"resume={source}{absent} is not read: the run has checkpoints of its own"]


def _is_within(path: Path, source: Path) -> bool:
    """Whether `path` is the file `source`, under any of its names, or lies in that folder."""
    if not source.exists():
        return False
    return path.samefile(source) or source.resolve() in path.resolve().parents


def load_state(trainer: Trainer, found: ResumePoint, world: World) -> None:
    """Take over the state of the checkpoint that a run goes on from.

    The main rank has read it already; on each other machine one rank holds it against its checksum.

    Raises:
        ValueError: naming the file: what it holds is not the state of this run.
    """
    try:
        contents = found.contents
        if contents is None:
            contents = load_checkpoint(found.path, check=world.local_rank == 0, mmap=_is_mapped(world))
        trainer.load_state_dict(contents)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        missing = "missing key " if isinstance(error, KeyError) else ""
        raise ValueError(f"{found.path} cannot be continued: {kind}{missing}{error}") from error


def _check_ranks_share_data(world: World, data: dict[str, Any]) -> None:
    """Refuse copies of the data that differ between machines."""
    first, *others = world.gather_objects(data)
    for rank, other in enumerate(others, start=1):
        found = differences(first, other, names=("on rank 0", f"on rank {rank}"))
        if found:
            raise ValueError(f"rank {rank} has other data than rank 0 ({'; '.join(found)}): copy the data again")


def _check_not_changed(config: TrainConfig, data: dict[str, Any], others: Iterable[Path]) -> None:
    """Refuse to begin anew where the name of a run says other data only because its data was damaged or changed.

    Other data is meant where it lies elsewhere and has no class in common; all else may be a copy with a fault, on
    which an interrupted run would start from its first step again.

    Args:
        config: of this start, whose own folder holds no checkpoint.
        data: the fingerprints of its data.
        others: folders of the same configuration on other data.
    """
    for folder in sorted(others):
        try:
            found = find_newest(folder)
            before = None if found is None else restore(found.config, found.path)
            differing = [] if found is None else _differing_data(found, data)
        except ValueError:
            continue  # a folder that cannot be continued is nothing to go on from
        if found is None or found.data is None or before is None or not differing:
            continue
        is_alike = set(found.data["train"]["class_names"]) & set(data["train"]["class_names"])
        if is_alike or set(_places(before.data)) & set(_places(config.data)):
            raise ValueError(
                f"{folder} holds this run, trained on other data ({'; '.join(differing)}). Give it the data it began "
                "with to go on, or this run a name= of its own to begin anew"
            )


def _places(data: DataConfig) -> list[tuple[str, str]]:
    """Where both parts of the data lie, as far as the configuration says."""
    parts = {"train": data.train, "val": data.val}
    return [
        (split, str(Path(path).absolute()) if path else f"{data.kind}:{data.root and Path(data.root).absolute()}")
        for split, path in parts.items()
    ]


def _check_same_data(found: ResumePoint, data: dict[str, Any]) -> None:
    """Refuse to continue a run with other data; checkpoints of older versions do not record which data they saw."""
    differing = _differing_data(found, data)
    if differing:
        raise ValueError(
            f"{found.path} was trained on other data ({'; '.join(differing)}). Give this run another name=, or the "
            "data it began with; to start from its weights alone use init=FILE with another name="
        )


def _differing_data(found: ResumePoint, data: dict[str, Any]) -> list[str]:
    """How the data of a checkpoint differs from this; nothing where an older version wrote it, which does not say.

    Raises:
        ValueError: what it says of its data is no fingerprint.
    """
    if found.data is None:
        return []
    try:
        return differences(found.data, data)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{found.path}: what it says of its data cannot be read ({error!r:.80})") from error
