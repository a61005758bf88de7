"""metrics.jsonl is whole at every moment and holds no line of a lost future."""

import json
import resource
import signal
from pathlib import Path

import pytest

from vitaos.metrics_reader import read_metrics
from vitaos.outputs.metrics import MetricsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def _fill(path: Path, count: int = 4) -> MetricsFile:
    metrics = MetricsFile(path)
    for epoch in range(count):
        metrics.metrics({"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 0.5})
    return metrics


def test_lines_come_back_and_have_no_nan(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.metrics({"epoch": 0, "step": 3, "train_loss": float("nan"), "spectrum": [1.0, float("inf")]})
    assert path.read_text() == '{"epoch": 0, "step": 3, "train_loss": null, "spectrum": [1.0, null]}\n'
    assert read_metrics(path) == [{"epoch": 0, "step": 3, "train_loss": None, "spectrum": [1.0, None]}]
    assert read_metrics(path.with_name("none.jsonl")) == []


def test_a_resumed_run_forgets_the_lost_future_and_a_torn_line(path: Path) -> None:
    _fill(path)
    with path.open("a") as file:
        file.write('{"epoch": 4, "st')
    metrics = MetricsFile(path)
    metrics.rewind(20)
    metrics.metrics({"epoch": 2, "step": 30, "train_loss": 0.25})
    assert [line["step"] for line in map(json.loads, path.read_text().splitlines())] == [10, 20, 30]
    MetricsFile(path).rewind(-1)
    assert path.read_text() == ""


def test_a_full_disk_loses_no_line(path: Path) -> None:
    told: list[str] = []
    _fill(path)
    metrics = MetricsFile(path, report=told.append)
    whole = path.read_text()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
        metrics.metrics({"epoch": 4, "step": 50})
        metrics.metrics({"epoch": 5, "step": 60})
        unwritten = str(metrics.finish())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert unwritten.startswith(f"2 lines are NOT written to {path}")
    assert '{"epoch": 5, "step": 60}' in unwritten
    assert path.read_text() == whole, "no torn line"
    assert len(told) == 3
    assert str(path) in told[0]
    metrics.log({"step": 61})
    assert [line["step"] for line in read_metrics(path)] == [10, 20, 30, 40, 50, 60]
    assert metrics.finish() is None


def test_lines_are_cut_by_their_step_whatever_their_number(path: Path) -> None:
    """After a fork the file begins later than the run: the run has had more lines than the file holds."""
    metrics = MetricsFile(path)
    for step in (30, 40):
        metrics.metrics({"epoch": step // 10 - 1, "step": step})
    resumed = MetricsFile(path)
    resumed.rewind(30)
    resumed.metrics({"epoch": 3, "step": 40})
    assert [line["step"] for line in read_metrics(path)] == [30, 40]


def test_a_removed_file_is_written_anew(path: Path) -> None:
    reports: list[str] = []
    _fill(path)
    metrics = MetricsFile(path, report=reports.append)
    metrics.rewind(20)
    path.unlink()
    metrics.metrics({"epoch": 2, "step": 30})
    path.unlink()
    assert metrics.finish() is None
    assert [line["step"] for line in read_metrics(path)] == [10, 20, 30]
    assert len(reports) == 2
    assert "was removed" in reports[0]
