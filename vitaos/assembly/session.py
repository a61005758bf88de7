"""One start of a run: what it records and logs, and how it ends."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import Any, Final

import torch
from omegaconf import OmegaConf
from torch import nn

from vitaos.assembly import builders, fingerprint
from vitaos.assembly.model_cost import forward_flops
from vitaos.checkpoint.resume import FORMAT, ResumePoint
from vitaos.checkpoint.store import Checkpoints
from vitaos.config import TrainConfig, enabled_techniques
from vitaos.data import Loaders
from vitaos.data.fingerprint import classes_digest
from vitaos.engine.distillation import Teacher
from vitaos.engine.profiling import StepProfiler
from vitaos.engine.throughput import Throughput, throughput
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
        steps_per_epoch = loaders.train.steps_per_epoch
        total_steps = builders.build_settings(config).total_steps(steps_per_epoch)
        trains = found is None or found.step < total_steps
        if trains or not folder.config.is_file():  # else it goes on telling what the steps that were taken were
            folder.write_config(OmegaConf.to_yaml(OmegaConf.create(stored)))
        resumed_from = str(found.path) if found else None
        session = describe_session(seed=config.seed, world_size=world.size, resumed_from=resumed_from)
        planned = {"from_step": found.step if found else 0, "epochs": config.epochs} if trains else {}
        append_session(folder.environment, session | planned | {"data": classes_digest(loaders.fingerprint)})
        self.checkpoints = self._stack.enter_context(closing(Checkpoints(folder.checkpoints, keep=config.keep)))
        sinks = RunSinks(
            folder,
            total_steps=total_steps,
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
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    share = "" if trained == parameters else f" ({trained:,} trained)"
    enabled = ", ".join(enabled_techniques(config)) or "plain"
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "the CPU"
    per_step = config.batch_size * config.accumulate * world.size
    total_steps = builders.build_settings(config).total_steps(loaders.train.steps_per_epoch)
    return "\n".join(
        [
            f"model   {_model_name(config)} ({enabled}), {parameters:,} parameters{share}, {config.precision}",
            f"data    {config.data.name}, {loaders.num_classes} classes, {loaders.train.images_per_epoch:,} images "
            f"an epoch, {loaders.val.num_images:,} held out",
            f"steps   {total_steps:,} of {per_step:,} images "
            f"({config.batch_size} x {config.accumulate} accumulated x {world.size} processes) on {device}",
        ]
    )


def _model_name(config: TrainConfig) -> str:
    """The backbone and how it differs from what its name stands for."""
    depth = {} if config.depth is None else {"depth": config.depth}
    changes = ", ".join(f"{key}={value}" for key, value in {**depth, **config.model.keywords}.items())
    return f"{config.model.name} with {changes}" if changes else config.model.name


def checkpoint_metadata(
    config: TrainConfig, loaders: Loaders, world: World, teacher: Teacher | None = None
) -> dict[str, Any]:
    """What a checkpoint holds beside the state: its format, configuration, class names and versions, and of a teacher
    who it was: its weights are not copied."""
    taught_by = {} if teacher is None else {"teacher": teacher.identity}
    return taught_by | {
        "format": FORMAT,
        "config": fingerprint.to_dict(config),
        "class_names": loaders.class_names,
        "data": loaders.fingerprint,
        "versions": versions(seed=config.seed, world_size=world.size),
    }


def build_throughput(config: TrainConfig, world: World, num_classes: int) -> Throughput | None:
    """What the line of an epoch says of the machine; only the main rank writes lines."""
    if not world.is_main:
        return None
    return throughput(world.device, processes=world.size, forward_flops=forward_flops(config, num_classes))


@contextmanager
def watch(trainer: Trainer, outputs: Outputs) -> Iterator[None]:
    """Let the profiler watch three steps of this start on the main rank; it writes into the run folder."""
    if not trainer.world.is_main:
        yield
        return
    steps = trainer.last_step - trainer.progress.step
    folder = outputs.folder.path / "profile"
    profiler = StepProfiler(folder, trainer.world.device, steps=steps, report=outputs.log)
    trainer.watch(profiler)
    try:
        yield
    finally:
        profiler.close()


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
