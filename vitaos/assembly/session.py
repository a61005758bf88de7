"""One start of a run: its folder and starting point, what it records and logs, and how it ends."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import torch
from omegaconf import OmegaConf
from torch import nn

from vitaos.assembly import builders, fingerprint
from vitaos.assembly.initial_weights import load_initial_weights
from vitaos.assembly.stored_config import restore
from vitaos.checkpoint.store import FORMAT, Checkpoints, ResumePoint, find_resume, load_checkpoint, resume_source
from vitaos.config import TrainConfig, enabled_techniques
from vitaos.data import Loaders
from vitaos.data.fingerprint import differences
from vitaos.engine.trainer import Outcome, Trainer
from vitaos.engine.update import NonFiniteError
from vitaos.outputs.environment import append_session, describe_session, versions
from vitaos.outputs.run_dir import RunDir
from vitaos.outputs.sinks import RunSinks
from vitaos.runtime.preemption import EXIT_PREEMPTED, mark_preempted
from vitaos.runtime.world import World

EXIT_NONFINITE: Final = 3
"""Exit status of a run that stopped at a loss or gradient that is not a finite number."""

EXIT_UNSAVED: Final = os.EX_IOERR
"""Exit status (74) of a run, however it ended, whose last state or lines of metrics are not on disk."""

_LAST_SAVES_S: Final = 8.0  # how long a rank that must end waits for its checkpoint to reach the disk

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


def open_run_folder(config: TrainConfig, folder: RunDir, world: World, loaders: Loaders) -> ResumePoint | None:
    """Take the run folder and find the checkpoint to go on from, if there is one.

    Raises:
        ValueError: on every rank: the ranks see different data, the weights to start from cannot be used, or the folder
            is in use, must not be continued, or belongs to another run or other data.
    """
    data = loaders.fingerprint
    _check_ranks_share_data(world, data)

    def find() -> ResumePoint | None:
        if not folder.has_checkpoint:
            _check_sources(config, loaders.num_classes)
        folder.open(config.resume)
        found = find_resume(config.resume, folder.checkpoints)
        if found is None:
            return None
        fingerprint.check_same_run(found.config, config, found.path)
        _check_same_data(found, data)
        notes = _notes_on_resuming(config, folder, found)
        return found._replace(notes=(*found.notes, *notes))

    return on_main(world, find)


def _check_sources(config: TrainConfig, num_classes: int) -> None:
    """Refuse what a run cannot start from before its folder is made."""
    if config.resume not in ("auto", "never"):
        resume_source(config.resume)
    elif config.init:
        load_initial_weights(config, builders.build_model(config, num_classes, recipe=config.recipe))


def _notes_on_resuming(config: TrainConfig, folder: RunDir, found: ResumePoint) -> list[str]:
    """What of this start's configuration does not act, or acts otherwise than at the run's first start.

    Raises:
        ValueError: ``resume`` names an older checkpoint of this same run, to which it would not go back.
    """
    notes = []
    before = restore(found.config, found.path)
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


def load_state(trainer: Trainer, found: ResumePoint) -> None:
    """Take over the state of the checkpoint that a run goes on from.

    Raises:
        ValueError: naming the file: what it holds is not the state of this run.
    """
    try:
        trainer.load_state_dict(load_checkpoint(found.path))
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


def _check_same_data(found: ResumePoint, data: dict[str, Any]) -> None:
    """Refuse to continue a run with other data; checkpoints of older versions do not record which data they saw."""
    differing = differences(found.data, data, names=("there", "here")) if found.data is not None else []
    if differing:
        raise ValueError(
            f"{found.path} was trained on other data ({'; '.join(differing)}). Give this run another name=, or the "
            "data it began with; to start from its weights alone use init=FILE with another name="
        )


class Outputs:
    """All that a start of a run writes: on the main rank its records, checkpoints and sinks; nothing on the others."""

    def __init__(
        self, config: TrainConfig, folder: RunDir, world: World, loaders: Loaders, found: ResumePoint | None
    ) -> None:
        self.folder = folder
        self.checkpoints: Checkpoints | None = None
        self.sinks: list[RunSinks] = []
        self._stack = ExitStack()
        if not world.is_main:
            return
        stored = fingerprint.to_dict(config)
        folder.write_config(OmegaConf.to_yaml(OmegaConf.create(stored)))
        resumed_from = str(found.path) if found else None
        session = describe_session(seed=config.seed, world_size=world.size, resumed_from=resumed_from)
        append_session(folder.environment, session)
        self.checkpoints = self._stack.enter_context(closing(Checkpoints(folder.checkpoints, keep=config.keep)))
        steps_per_epoch = loaders.train.steps_per_epoch
        sinks = RunSinks(
            folder,
            total_steps=builders.build_settings(config).total_steps(steps_per_epoch),
            steps_per_epoch=steps_per_epoch,
            tracker=stored["logger"],
            run_name=folder.path.name,
            config=stored,
        )
        self.sinks = [self._stack.enter_context(sinks)]
        self.log(f"run     {folder.path}")
        if found is not None:
            self.checkpoints.set_aside_damaged(found)
            self.log("\n".join([*found.notes, f"resumed from {found.path} at step {found.step}"]))

    def log(self, text: str | None) -> None:
        """Show a text on the screen and keep it in ``log.txt``, on the main rank."""
        for sinks in self.sinks:
            if text:
                sinks.message(text)

    def finish(self) -> list[str]:
        """Bring everything to the disk, with several tries; messages about what is not there."""
        if self.checkpoints is None:
            return []
        unsaved = [self.checkpoints.finish(), *(sinks.finish() for sinks in self.sinks)]
        removed = [f"{path} was removed while the run went on" for path in self.folder.removed_records()]
        return [message for message in unsaved if message is not None] + removed

    def finish_saves(self) -> None:
        """Let the checkpoint in work reach the disk, within reason."""
        if self.checkpoints is not None:
            self.checkpoints.flush(_LAST_SAVES_S)

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def run_summary(config: TrainConfig, world: World, loaders: Loaders, model: nn.Module) -> str:
    """Model, data, steps and device of a run in three lines."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    enabled = ", ".join(enabled_techniques(config)) or "plain"
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "the CPU"
    per_step = config.batch_size * config.accumulate * world.size
    total_steps = builders.build_settings(config).total_steps(loaders.train.steps_per_epoch)
    return "\n".join(
        [
            f"model   {config.model.name} ({enabled}), {parameters:,} parameters, {config.precision}",
            f"data    {config.data.name}, {loaders.num_classes} classes, {loaders.train.images_per_epoch:,} images "
            f"an epoch, {loaders.val.num_images:,} held out",
            f"steps   {total_steps:,} of {per_step:,} images "
            f"({config.batch_size} x {config.accumulate} accumulated x {world.size} processes) on {device}",
        ]
    )


def checkpoint_metadata(config: TrainConfig, loaders: Loaders, world: World) -> dict[str, Any]:
    """What a checkpoint holds beside the state: its format, configuration, class names and versions."""
    return {
        "format": FORMAT,
        "config": fingerprint.to_dict(config),
        "class_names": loaders.class_names,
        "data": loaders.fingerprint,
        "versions": versions(seed=config.seed, world_size=world.size),
    }


def fit(trainer: Trainer, world: World, outputs: Outputs) -> int:
    """Train to the end, see to it that everything is on disk, and log how it ended.

    Returns:
        The exit status: 0, that of a preempted run, ``EXIT_NONFINITE`` or ``EXIT_UNSAVED``.
    """
    try:
        outcome = trainer.fit()
    except NonFiniteError as error:
        status, summary = EXIT_NONFINITE, f"stopped: {error}"
        state = f"the state before step {error.step} is saved"
    else:
        status, summary = _outcome_summary(outcome, outputs.folder)
        state = "the state is saved, the same command goes on from here" if outcome.status == "preempted" else ""
    unsaved = world.broadcast_object(outputs.finish())
    if unsaved:
        status, state = EXIT_UNSAVED, ""
    outputs.log("; ".join(text for text in (summary, state) if text))
    for message in unsaved:
        outputs.log(f"WARNING: {message}")
    return mark_preempted() if status == EXIT_PREEMPTED else status


def _outcome_summary(outcome: Outcome, folder: RunDir) -> tuple[int, str]:
    """The exit status of a run whose state is saved, and one line on how it ended."""
    progress = outcome.progress
    if outcome.status == "preempted":
        return EXIT_PREEMPTED, f"asked to leave at step {progress.step}"
    best = f", best top-1 {progress.best_top1:.2f}% at step {progress.best_step}" if progress.best_step >= 0 else ""
    return 0, f"finished after {progress.step} steps{best}: {folder.path}"
