"""The checkpoints of a run, saved behind the loop; ``resume.py`` finds them again after whatever happened.

A folder holds ``step-00001200.pt`` (the newest ``keep`` of them), ``last.pt`` (another name of the newest, always
complete) and ``best.pt``. Each is one dict with the keys ``format model ema optimizer loss_scaler progress config
versions`` that plain ``torch.load(weights_only=True)`` reads. A run that is killed while writing, or whose newest file
was damaged later, goes on from the one before.

Only rank 0 makes a :class:`Checkpoints`.

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
from typing import Any, Final, Literal

from vitaos.checkpoint.folder import BEST, DAMAGED_SUFFIX, LAST, step_files, step_name
from vitaos.checkpoint.resume import ResumePoint
from vitaos.checkpoint.writer import BackgroundWriter, write_temporary
from vitaos.files import PARTIAL_SUFFIX, sync_folder

LAST_PAUSES_S: Final = (0.5, 1.0, 2.0)
"""Seconds before each further try to write the last state of a run."""

Kind = Literal["last", "best", "both"]


def _warn(message: str) -> None:
    logging.getLogger("vitaos").warning(message)


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
