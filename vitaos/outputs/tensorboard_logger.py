"""TensorBoard: event files in the run folder, ``tensorboard --logdir runs``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from vitaos.outputs.loggers import numeric_leaves

FOLDER: Final = "tensorboard"


class TensorBoardLogger:
    """Writes event files; a sink of the trainer, made on the main rank only.

    A resumed run adds a file to the same folder: TensorBoard shows them as one run, and a step that is written twice
    has the same values twice, since resumption is exact.

    Args:
        folder: the run folder; the files are in its ``tensorboard/``.
        name: shown name of the run, as text beside its configuration.
        config: resolved configuration.
    """

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # optional

        self._writer = SummaryWriter(str(folder / FOLDER))
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self._writer.add_text("config", f"{name}\n\n```yaml\n{text}```", 0)

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""
        self._add("train", record)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch, on the disk when this returns."""
        self._add("epoch", line)
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Nothing is taken back: what is written again is the same."""

    def close(self, *, failed: bool = False) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, prefix: str, values: Mapping[str, Any]) -> None:
        for tag, value in numeric_leaves(prefix, values).items():
            self._writer.add_scalar(tag, value, int(values["step"]))
