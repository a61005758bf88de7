"""A run that could not write its last state or lines says so and ends with a status of its own."""

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Run
from vitaos.assembly import session
from vitaos.assembly.session import EXIT_UNSAVED
from vitaos.checkpoint import store
from vitaos.checkpoint.resume import load_checkpoint
from vitaos.checkpoint.store import Checkpoints
from vitaos.metrics_reader import read_metrics
from vitaos.runtime.preemption import EXIT_PREEMPTED, MARKER_VARIABLE


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LAST_PAUSES_S", (0.0, 0.0, 0.0))


def _before_fit(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Do something between the start of a run and its first step."""
    fit = session.fit

    def fit_after_action(*arguments: Any) -> int:
        action()
        return fit(*arguments)

    monkeypatch.setattr(session, "fit", fit_after_action)


def _block(folder: Path, *steps: int) -> None:
    """Let no checkpoint of these steps be written: a folder stands where this process would write them."""
    for step in steps:
        (folder / f".step-{step:08d}.pt.{os.getpid()}.partial").mkdir(parents=True)


def test_a_preempted_run_that_could_not_save_does_not_claim_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setenv(MARKER_VARIABLE, str(marker))
    _before_fit(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    checkpoints = tmp_path / "a" / "checkpoints"
    _block(checkpoints, *range(1, 5))
    assert run("name=a") == EXIT_UNSAVED
    text = capfd.readouterr().out
    assert "is saved" not in text
    assert "asked to leave at step" in text
    assert "is NOT saved" in text
    assert "no checkpoint is there" in text
    assert not marker.exists(), "nobody requeues it"

    for path in checkpoints.glob(".*.partial"):
        path.rmdir()
    assert run("name=a") == EXIT_PREEMPTED
    assert "the state is saved" in capfd.readouterr().out
    assert marker.exists()


def test_a_run_that_stopped_at_nan_and_could_not_save_does_not_claim_it(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _block(tmp_path / "a" / "checkpoints", *range(5))
    assert run("name=a", "recipe.lr=1e30", "recipe.warmup_lr=1e30", "recipe.clip=null") == EXIT_UNSAVED
    text = capfd.readouterr().out
    assert "is NaN or infinite" in text
    assert "is saved" not in text
    assert "is NOT saved" in text


def test_a_finished_run_without_its_last_state(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _block(tmp_path / "a" / "checkpoints", 4)
    assert run("name=a", "checkpoint_every=2") == EXIT_UNSAVED
    text = capfd.readouterr().out
    assert "the state of step 4 is NOT saved" in text
    assert "the newest checkpoint there is that of step 2" in text


def test_a_folder_removed_while_the_run_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    _before_fit(monkeypatch, lambda: shutil.rmtree(folder))
    assert run("name=a") == EXIT_UNSAVED
    assert f"{folder / 'config.yaml'} was removed while the run went on" in capfd.readouterr().out
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["progress"]["step"] == 4, "the state is there anew"
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [4]


def test_a_best_state_that_was_not_written_is_not_forgotten_for_a_later_one(tmp_path: Path) -> None:
    with contextlib.closing(Checkpoints(tmp_path, report=[].append)) as checkpoints:
        checkpoints.save({"step": 10}, step=10, kind="both", block=True)
        assert checkpoints.finish() is None
        _block(tmp_path, 20)
        checkpoints.save({"step": 20}, step=20, kind="both", block=True)
        checkpoints.save({"step": 30}, step=30, block=True)
        message = str(checkpoints.finish())
    assert "the best accuracy, of step 20, is NOT saved" in message
    assert "best.pt is that of an earlier best" in message


def test_a_failed_save_is_tried_again_until_it_succeeds(tmp_path: Path) -> None:
    reports: list[str] = []
    checkpoints = Checkpoints(tmp_path, report=reports.append)
    with contextlib.closing(checkpoints):
        _block(tmp_path, 10)
        state = {"format": "vitaos-1", "step": 10}
        assert not checkpoints.save(state, step=10, block=True)
        assert str(checkpoints.finish()).startswith("the state of step 10 is NOT saved")
        for path in tmp_path.glob(".*.partial"):
            path.rmdir()
        assert checkpoints.finish() is None
    assert (tmp_path / "last.pt").is_file()
    assert checkpoints.failures == 1
    assert len(reports) == 2
    assert "succeeded after 5 tries" in reports[1]
