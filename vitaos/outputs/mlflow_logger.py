"""MLflow: a server where one is named, else files in the run folder."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vitaos.files import write_text
from vitaos.outputs.loggers import numeric_leaves, text_leaves

_ID_FILE: Final = "mlflow_run.txt"
_PARAMETERS_AT_ONCE: Final = 100  # MLflow's own limit
_LONGEST_VALUE: Final = 500


class MlflowLogger:
    """Sends a run to MLflow; a sink of the trainer, made on the main rank only.

    Args:
        folder: the run folder; it keeps the run's identity (``mlflow_run.txt``) and, without a server, its data.
        name: shown name of the run.
        config: resolved configuration, logged as parameters.
        project: the experiment at MLflow.
        group: tag ``group`` of the run.
        tags: tags of the run, each with the value "true".
        tracking_uri: where runs are kept; by default the environment's ``MLFLOW_TRACKING_URI``, else the folder
            ``mlruns`` in the run folder.

    Raises:
        ValueError: MLflow or its server refused; the message explains why and how to go on without it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        project: str = "vitaos",
        group: str | None = None,
        tags: Sequence[str] = (),
        tracking_uri: str | None = None,
    ) -> None:
        # MLflow asks for this before it keeps runs in files; it keeps them so without further packages.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  # optional, and takes seconds to import
        from mlflow.tracking import MlflowClient  # noqa: PLC0415

        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve() / "mlruns").as_uri()
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._run_id = self._continue_run(folder) or self._new_run(folder, name, project, config)
            for key, value in [*((tag, "true") for tag in tags), *([("group", group)] if group else [])]:
                self._client.set_tag(self._run_id, key, value)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"logger=mlflow: {uri}: {error}. Give logger.tracking_uri=URI of a server or folder, or logger=none."
            ) from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""
        self._add("train", record)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch."""
        self._add("epoch", line)

    def rewind(self, step: int) -> None:
        """Nothing is taken back: what is logged again is the same, at the same step."""

    def close(self, *, failed: bool = False) -> None:
        """Say that the run ended."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    def _continue_run(self, folder: Path) -> str | None:
        path = folder / _ID_FILE
        if not path.exists():
            return None
        run_id = path.read_text(encoding="utf-8").strip()
        self._client.update_run(run_id, "RUNNING")
        return run_id

    def _new_run(self, folder: Path, name: str, project: str, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Param  # noqa: PLC0415

        experiment = self._client.get_experiment_by_name(project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(project)
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        parameters = [Param(key, value[:_LONGEST_VALUE]) for key, value in text_leaves("", config).items()]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])
        write_text(folder / _ID_FILE, run_id + "\n")
        return run_id

    def _add(self, prefix: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        now, step = int(time.time() * 1000), int(values["step"])
        found = [Metric(tag, float(value), now, step) for tag, value in numeric_leaves(prefix, values).items()]
        for start in range(0, len(found), 1000):
            self._client.log_batch(self._run_id, metrics=found[start : start + 1000])
