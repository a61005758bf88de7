"""Trackers read back by their own readers: one run after a resume, several at once, and failures that harm nobody."""

from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import compose_digits
from vitaos.assembly.possible import check_possible
from vitaos.config import ConfigError
from vitaos.outputs import trackers
from vitaos.outputs.run_dir import RunDir
from vitaos.outputs.sinks import RunSinks

CONFIG = {"model": {"name": "deit_s12"}, "recipe": {"crop_scale": [0.08, 1.0]}}
LINE = {"epoch": 0, "val_top1": 50.0, "attn_scale_by_block": [0.1, 0.2]}


@pytest.fixture(autouse=True)
def here_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")


def start_twice(folder: Path, settings: dict[str, Any]) -> list[str]:
    """A run of two starts, of which each logs a reading and a line; returns what was reported."""
    told: list[str] = []
    folder.mkdir()
    for step in (10, 20):
        tracked = trackers.Trackers(folder, run_name="a run", config=CONFIG, settings=settings, report=told.append)
        tracked.rewind(step - 10)
        tracked.log({"step": step - 5, "loss": 2.0})
        tracked.metrics({"step": step, **LINE})
        tracked.close()
    return told


def test_tensorboard_shows_one_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    assert start_twice(tmp_path / "run", {"name": "tensorboard"}) == []
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("epoch/val_top1")] == [(10, 50.0), (20, 50.0)]
    assert [event.step for event in events.Scalars("train/loss")] == [5, 15]
    assert events.Scalars("epoch/attn_scale_by_block/01")[0].value == pytest.approx(0.2)


def test_mlflow_goes_on_with_its_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    settings = {"name": "mlflow", "project": "deep", "tags": ["tried"], "group": "g", "tracking_uri": None}
    assert start_twice(tmp_path / "run", settings) == []
    client = MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("deep").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a run")
    assert run.data.params["model.name"] == "deit_s12"
    assert run.data.params["recipe.crop_scale"] == "[0.08, 1.0]"
    assert (run.data.tags["tried"], run.data.tags["group"]) == ("true", "g")
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "epoch/val_top1")] == [10, 20]
    with pytest.raises(ValueError, match=r"logger=mlflow: nowhere://x.*logger\.tracking_uri"):
        start_twice(tmp_path / "other", settings | {"tracking_uri": "nowhere://x"})


def test_trackio_goes_on_with_its_run(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage  # noqa: PLC0415

    assert start_twice(tmp_path / "run", {"name": "trackio", "project": "vitaos-test"}) == []
    (name,) = SQLiteStorage.get_runs("vitaos-test")
    assert name.startswith("a run-")
    logged = [entry for entry in SQLiteStorage.get_logs("vitaos-test", name) if "epoch/val_top1" in entry]
    assert [entry["step"] for entry in logged] == [10, 20]


def test_several_at_once_and_one_that_fails_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"name": "tensorboard", "also": ["mlflow"], "project": "p", "tags": [], "group": None}
    folder = RunDir(tmp_path / "run").open("auto")
    with RunSinks(folder, total_steps=20, steps_per_epoch=10, tracker=settings, run_name="r", config=CONFIG) as sinks:
        sinks.metrics({"step": 10, **LINE})

        def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("the server is gone")

        monkeypatch.setattr("mlflow.tracking.MlflowClient.log_batch", refuse)
        sinks.metrics({"step": 20, **LINE})
        sinks.metrics({"step": 30, **LINE})
    folder.close()
    assert (tmp_path / "run" / "log.txt").read_text().count("logger=mlflow failed") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_the_command_line_names_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_digits(tmp_path, "logger=[wandb,tensorboard]")
    assert (config.logger.name, config.logger.also) == ("wandb", ["tensorboard"])
    assert compose_digits(tmp_path, "logger=trackio").logger.name == "trackio"
    with pytest.raises(ConfigError, match="'neptune' is no tracker; valid: wandb, tensorboard"):
        compose_digits(tmp_path, "logger=wandb", "logger.also=[neptune]")
    with pytest.raises(ConfigError, match="name the first by logger=mlflow"):
        compose_digits(tmp_path, "logger.also=[mlflow]")
    find = trackers.require.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(ValueError, match=r"logger=tensorboard needs the package tensorboard.*vitaos\[trackers\]"):
        check_possible(config)
