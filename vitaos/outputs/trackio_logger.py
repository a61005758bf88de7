"""Trackio: runs kept on this machine (``TRACKIO_DIR``), ``trackio show``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitaos.outputs.loggers import identity, numeric_leaves


class TrackioLogger:
    """Writes a run for Trackio's dashboard; a sink of the trainer, made on the main rank only.

    Trackio knows runs by their names: the run's identity is part of it, so that two folders of one name stay two runs.

    Args:
        folder: the run folder; it keeps the run's identity (``trackio_id.txt``).
        name: shown name of the run.
        config: resolved configuration.
        project: project at Trackio.
        group: group of runs there.

    Raises:
        ValueError: Trackio refused to start; the message explains why and how to go on without it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        project: str = "vitaos",
        group: str | None = None,
    ) -> None:
        import trackio  # noqa: PLC0415  # optional, and takes a second to import

        try:
            self._run = trackio.init(
                project=project,
                name=f"{name}-{identity(folder, 'trackio_id.txt')[:6]}",
                group=group,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"logger=trackio: {error}. Use another logger, or logger=none.") from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""
        self._run.log(numeric_leaves("train", record), step=int(record["step"]))

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch."""
        self._run.log(numeric_leaves("epoch", line), step=int(line["step"]))

    def rewind(self, step: int) -> None:
        """Nothing is taken back: what is logged again is the same, at the same step."""

    def close(self, *, failed: bool = False) -> None:
        """Write what is left."""
        self._run.finish()
