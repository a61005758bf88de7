"""A run that is watched computes what it computes unwatched; what was seen is written by phase."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import ALONE, RecordingSink, assert_same, final_state, make_trainer, timeless

from vitaos.engine import throughput as machine
from vitaos.engine.profiling import PHASES, StepProfiler
from vitaos.engine.throughput import peak_flops, throughput


def run(**keywords: Any) -> tuple[Any, RecordingSink]:
    sink = RecordingSink()
    return make_trainer(ALONE, sinks=[sink], batch_size=6, accumulate=2, epochs=1, **keywords), sink


def test_watching_changes_no_number_and_tells_the_phases(tmp_path: Path) -> None:
    plain, lines = run()
    plain.fit()
    watched, lines_too = run()
    told: list[str] = []
    watched.watch(StepProfiler(tmp_path / "profile", ALONE.device, steps=watched.last_step, report=told.append))
    watched.fit()
    assert_same(final_state(watched), final_state(plain))
    assert timeless(lines_too.lines) == timeless(lines.lines)
    assert len(told) == 1
    rows = {row["phase"]: float(row["host_ms"]) for row in csv.DictReader((tmp_path / "profile" / "phases.csv").open())}
    assert list(rows) == [*PHASES, "other", "step"]
    assert all(rows[phase] > 0 for phase in PHASES)
    assert sum(rows[phase] for phase in [*PHASES, "other"]) == pytest.approx(rows["step"], abs=0.01)
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    counted = {phase: sum(event.get("name") == phase for event in events) for phase in PHASES}
    assert counted == {"data": 6, "augment": 6, "forward": 6, "backward": 6, "update": 3}  # 3 steps of 2 micro-batches
    assert "aten::" in (tmp_path / "profile" / "operations.txt").read_text()


def test_a_run_of_fewer_steps_is_watched_as_far_as_it_goes(tmp_path: Path) -> None:
    trainer, _ = run(steps=2)
    profiler = StepProfiler(tmp_path / "profile", ALONE.device, steps=2, report=lambda text: None)
    trainer.watch(profiler)
    trainer.fit()
    profiler.close()
    assert (tmp_path / "profile" / "trace.json.gz").stat().st_size > 1000


def test_utilization_is_three_forward_passes_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = throughput(ALONE.device, processes=2, forward_flops=10**9)(500.0)
    assert (on_cpu["tflops"], on_cpu["mfu"]) == (pytest.approx(0.75), None)
    assert 0.1 < on_cpu["memory_gb"] < 100
    names = {"NVIDIA H100 80GB HBM3": 989.4, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA L40S": 362, "NVIDIA H100 PCIe": 756}
    for name, peak in names.items():
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == pytest.approx(1e12 * peak)
    monkeypatch.setattr(machine, "_peak_memory", lambda device: 2 * 10**9)
    on_gpu = throughput(torch.device("cuda"), processes=1, forward_flops=10**9)(75600.0)
    assert on_gpu["mfu"] == pytest.approx(0.3)
    for unknown in ("NVIDIA RTX A4000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device, name=unknown: name)
        assert peak_flops(torch.device("cuda")) is None
    assert throughput(ALONE.device, processes=1, forward_flops=None)(1.0)["tflops"] is None
