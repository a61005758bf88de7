"""The folder of a run: what lies where, and who may write it.

``config.yaml``, ``environment.json``, ``metrics.jsonl``, ``log.txt``, ``checkpoints/`` (``last.pt``, ``best.pt`` and
the numbered ones). Paths are the same for every rank; only rank 0 calls :meth:`RunDir.open`, which takes the lock and
makes the folder.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from vitaos.checkpoint.folder import BEST, CHECKPOINTS, candidates
from vitaos.files import write_text
from vitaos.metrics_reader import read_metrics
from vitaos.outputs.lock import FolderLock


class RunDir:
    """A run folder.

    Args:
        path: the folder; nothing is touched until :meth:`open`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: FolderLock | None = None
        self._is_new = False

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint to continue from lies here (whole or not)."""
        return bool(candidates(self.checkpoints))

    def open(self, resume: str, *, report: Callable[[str], None] = print) -> "RunDir":
        """Make the folder and take its lock, for rank 0 (the others wait for its signal).

        Args:
            resume: ``auto``, ``never`` or a path, as on the command line; ``never`` refuses a folder that holds a
                checkpoint, both a folder that holds what is left of a run and would be written over.
            report: called with a message while waiting for a lock and on taking one over.

        Raises:
            ValueError: the folder is in use by another job (named), holds a checkpoint and must not be continued, or
                cannot be made.
        """
        self._is_new = not self.path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"The run folder {self.path} cannot be made: {error.strerror}.") from error
        try:
            self._lock = FolderLock(self.path / ".lock", report=report)
        except OSError as error:
            if self._is_new:
                with suppress(OSError):
                    self._remove_if_unused()
            raise ValueError(f"The run folder {self.path} cannot be written: {error.strerror}.") from error
        if resume == "never" and self.has_checkpoint:
            self.close()
            raise ValueError(
                f"{self.path} already holds a checkpoint and resume=never forbids to continue it: give this run "
                "another `name`, or set resume=auto to continue that one."
            )
        if resume in ("auto", "never") and not self.has_checkpoint and (left := self._left_of_a_run()):
            self.close()
            raise ValueError(
                f"{self.path} holds what is left of a run ({left}) and no last.pt or numbered checkpoint to go on "
                "from: beginning anew would write over it. Give this run another `name`, name the checkpoint to go on "
                "from (resume=FILE), or move the folder away."
            )
        return self

    def _left_of_a_run(self) -> str:
        """What a run without checkpoints to go on from has left; empty where it may begin anew: one that was stopped
        between its first line of metrics and its first checkpoint has nothing else."""
        best = self.checkpoints / BEST
        epochs = len(read_metrics(self.metrics))
        left = {str(best): best.exists(), f"{epochs} epochs in {self.metrics}": epochs > 1}
        return " and ".join(what for what, is_there in left.items() if is_there)

    def write_config(self, text: str) -> None:
        """Write the resolved configuration; an earlier start's that differs is kept as ``config.N.yaml``."""
        if self.config.exists():
            if self.config.read_text() == text:
                return
            number = 1
            while (earlier := self.path / f"config.{number}.yaml").exists():
                number += 1
            self.config.replace(earlier)
        write_text(self.config, text)

    def removed_records(self) -> list[Path]:
        """The files of a started run that are not there: somebody removed them, or the whole folder."""
        return [path for path in (self.config, self.environment) if not path.is_file()]

    def close(self) -> None:
        """Let the next job have the folder; one that was made for a run refused before it wrote anything goes."""
        if self._lock is None:
            return
        self._lock.release()
        self._lock = None
        if self._is_new:
            with suppress(OSError):  # something lies in it, or it is gone
                self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        of_lock = {path for path in self.path.glob(".lock.*") if path.is_file()}
        if {*self.path.iterdir()} <= {self.checkpoints, *of_lock}:
            self.checkpoints.rmdir()
            for path in of_lock:
                path.unlink(missing_ok=True)
            self.path.rmdir()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
