"""The checkpoints of a run: saved behind the loop, found again after whatever happened.

A folder holds ``step-00001200.pt`` (the newest ``keep`` of them), ``last.pt`` (another name of the newest, always
complete) and ``best.pt``. Each is one dict with the keys ``format model ema optimizer loss_scaler progress config
versions`` that plain ``torch.load(weights_only=True)`` reads. A run that is killed while writing, or whose newest file
was damaged later, goes on from the one before.

Only rank 0 makes a :class:`Checkpoints` and calls :func:`find_resume`; every rank reads the file that rank 0 found.

What a checkpoint at a step promises is that everything before that step is on disk: write the metrics line of an epoch
before saving the checkpoint in which the epoch is over.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from vitaos.checkpoint.folder import (
    BEST,
    DAMAGED_SUFFIX,
    LAST,
    candidates,
    checkpoint_folder,
    step_files,
    step_in_name,
    step_name,
)
from vitaos.checkpoint.safe_load import load_file
from vitaos.checkpoint.writer import BackgroundWriter, write_temporary
from vitaos.files import PARTIAL_SUFFIX, sync_folder

FORMAT: Final = "vitaos-1"
KEYS: Final = ("format", "model", "ema", "optimizer", "loss_scaler", "progress", "config")

LAST_PAUSES_S: Final = (0.5, 1.0, 2.0)
"""Seconds before each further try to write the last state of a run."""

_SECTIONS: Final = {
    "model": (Mapping,),
    "ema": (Mapping, type(None)),
    "optimizer": (Mapping,),
    "loss_scaler": (Mapping, type(None)),
    "progress": (Mapping,),
    "config": (Mapping,),
}

Kind = Literal["last", "best", "both"]


class ResumePoint(NamedTuple):
    """A checkpoint to resume from.

    Attributes:
        path: its file.
        step: its global step.
        config: the configuration of its run.
        data: the fingerprints of its data, None where an older version wrote it.
        notes: messages for the log about what is wrong with newer ones.
        damaged: those newer ones.
    """

    path: Path
    step: int
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = ()
    data: Mapping[str, Any] | None = None


def _warn(message: str) -> None:
    logging.getLogger("vitaos").warning(message)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one vitaos checkpoint to the CPU.

    Raises:
        ValueError: missing, truncated, damaged, contains code, or not written by vitaos. Nothing in it has been run.
    """
    contents = load_file(path)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of a vitaos run (its `format` is not {FORMAT!r}): it cannot be resumed."
        )
    missing = [key for key in KEYS if key not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it cannot be resumed.")
    for key, kinds in _SECTIONS.items():
        if not isinstance(contents[key], kinds):
            raise ValueError(f"{path}: {key} is a {type(contents[key]).__name__}, expected a mapping: it is damaged.")
    return contents


def _step_of(path: Path, contents: Mapping[str, Any]) -> int:
    named = step_in_name(path)
    if named is not None:
        return named
    progress = contents["progress"]
    step = progress.get("step") if isinstance(progress, Mapping) else None
    return step if isinstance(step, int) else 0


def find_newest(folder: str | Path) -> ResumePoint | None:
    """The newest whole checkpoint of ``folder`` (a run folder or its ``checkpoints``); None when there is none at all.

    Raises:
        ValueError: there are checkpoints but every one is damaged; each is named with what is wrong.
    """
    notes: list[str] = []
    damaged: list[Path] = []
    files = candidates(checkpoint_folder(Path(folder)))
    for path in files:
        try:
            contents = load_checkpoint(path)
        except ValueError as error:
            notes.append(str(error))
            damaged.append(path)
            continue
        step = _step_of(path, contents)
        if notes:
            notes.append(f"Falling back to {path} (step {step}).")
        return ResumePoint(path, step, contents["config"], tuple(notes), tuple(damaged), contents.get("data"))
    if files:
        raise ValueError(
            f"No checkpoint of this run can be read, so it cannot continue: {' '.join(notes)} "
            "Restore one of these files, or start anew under another `name`."
        )
    return None


def find_resume(resume: str, folder: str | Path) -> ResumePoint | None:
    """Where a run starts: the checkpoint that ``resume`` means for the run whose checkpoints are in ``folder``.

    ``auto``: the newest whole one of ``folder``. ``never``: none. Else the path of a checkpoint file or of a run
    folder; but a run that already has checkpoints of its own continues from those, so that the same command, given
    again after a preemption, does not go back to where it first began.

    Raises:
        ValueError: nothing at the path given, or nothing there can be read.
    """
    if resume == "never":
        return None
    own = find_newest(folder)
    if own is not None or resume == "auto":
        return own
    path = resume_source(resume)
    if path.is_dir():
        found = find_newest(path)
        if found is None:
            raise ValueError(f"resume={resume}: no checkpoint in that folder.")
        return found
    contents = load_checkpoint(path)
    return ResumePoint(path, _step_of(path, contents), contents["config"], data=contents.get("data"))


def resume_source(resume: str) -> Path:
    """The checkpoint or run folder that ``resume``, neither ``auto`` nor ``never``, names.

    Raises:
        ValueError: nothing is there.
    """
    path = Path(resume)
    if not path.exists():
        raise ValueError(
            f"resume={resume}: it is auto, never, or the path of a checkpoint or run folder; none is there."
        )
    return path


class Checkpoints:
    """Writes the checkpoints of one run (rank 0 only).

    Args:
        folder: the ``checkpoints`` folder of the run; made when missing.
        keep: how many numbered checkpoints stay; at least 2, so that there is one to fall back to.
        max_lag: how many saves may wait behind the one being written before :meth:`save` waits.
        report: receives messages about failures and waits (in the writer's thread); by default they are logged.

    Attributes:
        failures, last_error, waited_s: what went wrong with saves so far, and how long the loop waited for the disk.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        max_lag: int = 1,
        report: Callable[[str], None] = _warn,
    ) -> None:
        if keep < 2:
            raise ValueError(f"keep={keep}: at least 2 checkpoints are kept, so that there is one to fall back to.")
        if max_lag < 0:
            raise ValueError(f"max_lag={max_lag}: it is a number of saves, 0 or more.")
        self.folder = Path(folder)
        self.keep = keep
        self._requested_step: int | None = None
        self._saved_step: int | None = None
        self._requested_best: int | None = None
        self._saved_best: int | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_temporaries()
        self._writer = BackgroundWriter(max_lag=max_lag, report=report)

    @property
    def failures(self) -> int:
        return self._writer.failures

    @property
    def last_error(self) -> str | None:
        return self._writer.last_error

    @property
    def waited_s(self) -> float:
        return self._writer.waited_s

    def save(self, state: Mapping[str, Any], *, step: int, kind: Kind = "last", block: bool = False) -> bool:
        """Copy ``state`` to the CPU and write it; the loop pays the copy.

        Args:
            state: the dict of the format (see the head of this file): tensors and plain values.
            step: global step, in the file's name.
            kind: ``last`` (numbered, becomes ``last.pt``), ``best`` (only ``best.pt``), ``both`` (one file for both).
            block: return only when the file is on disk (or has failed), as before the end of a preempted run.

        Returns:
            False when it is known that a save failed since the call began (only a blocking call waits to know).
        """
        failures = self._writer.failures
        if kind != "best":
            self._requested_step = step
        if kind != "last":
            self._requested_best = step
        self._writer.submit(state, lambda copy: self._write(copy, step, kind), f"{kind} at step {step}")
        if block:
            self._writer.flush()
        return self._writer.failures == failures

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all saves asked for are on disk or have failed; False when ``timeout_s`` ran out first."""
        return self._writer.flush(timeout_s)

    def finish(self) -> str | None:
        """Wait for the saves asked for, and try again what failed.

        Returns:
            None when the newest state and the best one are on disk; otherwise a message on what is not, and why.
        """
        self._writer.flush()
        for pause_s in LAST_PAUSES_S:
            if self._is_saved():
                break
            time.sleep(pause_s)
            self._writer.retry()
        if self._is_saved():
            return self._old_best()
        saved = step_files(self.folder)
        newest = f"the newest checkpoint there is that of step {saved[0][0]}" if saved else "no checkpoint is there"
        reason = self.last_error or "its file was removed"
        return f"the state of step {self._requested_step} is NOT saved in {self.folder} ({reason}); {newest}"

    def _old_best(self) -> str | None:
        """That the state of the best accuracy could not be written, before later states were."""
        if self._requested_best == self._saved_best:
            return None
        holds = "is that of an earlier best" if (self.folder / BEST).is_file() else "is not there"
        return (
            f"the state of the best accuracy, of step {self._requested_best}, is NOT saved ({self.last_error}): "
            f"{self.folder / BEST} {holds}"
        )

    def _is_saved(self) -> bool:
        """Whether the newest state asked for was written and is still there."""
        if self._requested_step is None:
            return True
        return self._saved_step == self._requested_step and (self.folder / LAST).is_file()

    def close(self) -> None:
        """Wait for the saves asked for and end the writer."""
        self._writer.close()

    def set_aside_damaged(self, found: ResumePoint) -> None:
        """After a fall-back: rename the damaged files to ``*.damaged`` and let ``last.pt`` be the whole one."""
        ours = [path for path in found.damaged if path.parent.samefile(self.folder)]
        for path in ours:
            path.replace(path.with_name(path.name + DAMAGED_SUFFIX))
        if ours and found.path.name != LAST:
            self._give_name(found.path, LAST)
        for path in sorted(self.folder.glob(f"*{DAMAGED_SUFFIX}"))[:-1]:
            path.unlink(missing_ok=True)  # one is kept for whoever wants to know what happened; they are large

    def _write(self, state: Any, step: int, kind: Kind) -> None:
        name = BEST if kind == "best" else step_name(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = write_temporary(state, self.folder, name)
        try:
            path = self.folder / name
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if kind != "best":
            self._give_name(path, LAST)
        if kind == "both":
            self._give_name(path, BEST)
        sync_folder(self.folder)
        if kind != "best":
            self._saved_step = step
        if kind != "last":
            self._saved_best = step
        self._prune()

    def _give_name(self, path: Path, name: str) -> None:
        """Let ``name`` be another name of ``path``, at every moment either the old file or the new one."""
        temporary = self.folder / f".{name}.{os.getpid()}{PARTIAL_SUFFIX}"
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a filesystem without hard links
            shutil.copyfile(path, temporary)
        temporary.replace(self.folder / name)
        temporary.unlink(missing_ok=True)  # a rename onto another name of the same file leaves both

    def _prune(self) -> None:
        for _, path in step_files(self.folder)[self.keep :]:
            path.unlink(missing_ok=True)

    def _remove_temporaries(self) -> None:
        for path in self.folder.glob(f".*{PARTIAL_SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()
