"""Which trackers there are, and several of them at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from vitaos.optional import require
from vitaos.outputs.loggers import WandbLogger
from vitaos.outputs.mlflow_logger import MlflowLogger
from vitaos.outputs.tensorboard_logger import TensorBoardLogger
from vitaos.outputs.trackio_logger import TrackioLogger


class Tracker(Protocol):
    """A sink of the trainer that keeps a run of its own elsewhere, and goes on with it after a resume."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch."""

    def rewind(self, step: int) -> None:
        """Of the lines given to :meth:`metrics`, those up to `step` belong to the run."""

    def close(self, *, failed: bool = False) -> None:
        """Finish; a ``failed`` run is shown as such where the tracker can."""


class _Kind(NamedTuple):
    """How a tracker is made: its class, its package, and the keys of ``logger`` that it reads."""

    make: Callable[..., Tracker]
    package: str
    keys: tuple[str, ...]


TRACKERS: Final[Mapping[str, _Kind]] = {
    "wandb": _Kind(WandbLogger, "wandb", ("project", "entity", "group", "tags", "mode")),
    "tensorboard": _Kind(TensorBoardLogger, "tensorboard", ()),
    "mlflow": _Kind(MlflowLogger, "mlflow", ("project", "group", "tags", "tracking_uri")),
    "trackio": _Kind(TrackioLogger, "trackio", ("project", "group")),
}


def chosen(settings: Mapping[str, Any]) -> list[str]:
    """Names of the trackers of a run, from its ``logger`` section."""
    names = [settings["name"], *(settings.get("also") or [])]
    return [name for name in dict.fromkeys(names) if name != "none"]


def check_installed(settings: Mapping[str, Any]) -> None:
    """Refuse trackers whose package is missing, before a run starts.

    Raises:
        ValueError: names the package and how to get it.
    """
    for name in chosen(settings):
        require(TRACKERS[name].package, f"logger={name}", extra="trackers")


class Trackers:
    """All trackers of a run as one. What one of them answers with an error is told once and stops neither the run nor
    the others: ``metrics.jsonl`` has every number.

    Args:
        folder: the run folder, where they keep their identities and, offline, their data.
        run_name: shown name of the run.
        config: resolved configuration.
        settings: the ``logger`` section.
        report: receives the message about one that failed.

    Raises:
        ValueError: one of them refused to start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_name: str,
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
        report: Callable[[str], None],
    ) -> None:
        self._report = report
        self._failed: set[str] = set()
        self._trackers: dict[str, Tracker] = {}
        for name in chosen(settings):
            kind = TRACKERS[name]
            own = {key: settings[key] for key in kind.keys if key in settings}
            self._trackers[name] = kind.make(folder, name=run_name, config=config, **own)

    def log(self, record: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.log(record))

    def metrics(self, line: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.metrics(line))

    def rewind(self, step: int) -> None:
        self._each(lambda tracker: tracker.rewind(step))

    def close(self, *, failed: bool = False) -> None:
        self._each(lambda tracker: tracker.close(failed=failed))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in self._trackers.items():
            try:
                action(tracker)
            except Exception as error:  # whatever its server or disk answers
                if name not in self._failed:
                    self._failed.add(name)
                    self._report(
                        f"logger={name} failed ({error!r:.200}); the run goes on, metrics.jsonl has every number"
                    )
