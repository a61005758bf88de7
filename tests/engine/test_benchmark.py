"""The measurement of a step measures what it claims to; benchmark.py names its commands."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from miniature import tiny_vit

from vitaos.engine.precision import build_precision

ROOT = Path(__file__).resolve().parent.parent.parent


def test_steps_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from scripts.benchmarks.step import count_flops, measure_step, table  # noqa: PLC0415 - scripts are no package

    makers = {"plain": tiny_vit, "deeper": partial(tiny_vit, depth=12)}
    device = torch.device("cpu")
    rows = measure_step(
        makers, modes=("train", "forward"), compiled=(False,), batch_size=4, img_size=8, num_classes=10, device=device,
        precision=build_precision("fp32", device), peak=1e12, rounds=5, steps=1,
    )  # fmt: skip
    found = {(row.name, row.mode): row for row in rows}
    assert len(found) == 4
    assert found["plain", "train"].ratio == found["plain", "forward"].processor_ratio == 1.0
    assert found["deeper", "train"].processor_ratio > 2
    assert found["plain", "train"].images_per_s == pytest.approx(4000 / found["plain", "train"].milliseconds)
    assert all(row.peak_bytes > 0 and 0 < row.utilisation < 1 for row in rows)
    flops_of_two = [
        found[name, "forward"].utilisation / found[name, "forward"].images_per_s for name in ("deeper", "plain")
    ]
    assert flops_of_two[0] / flops_of_two[1] > 1.5, "utilisation counts the deeper model's own FLOPs"
    assert count_flops(tiny_vit, 8, backward=True) > 2 * count_flops(tiny_vit, 8, backward=False)
    assert len(table(rows)) == 6


def test_an_unknown_benchmark_names_the_known() -> None:
    script = str(ROOT / "scripts" / "benchmark.py")
    done = subprocess.run([sys.executable, script, "speed"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "step, loader, augment, end_to_end" in done.stderr
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0
    assert "key=value" in shown.stdout
