"""The doctor: what it says of machines that fit and of ones that do not, and the status it ends with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vitaos.doctor import command, data, gpu, host, software
from vitaos.doctor.finding import Finding

ROOT = Path(__file__).resolve().parents[2]


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.status for finding in findings}


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            (folder / "image.jpg").write_bytes(b"0" * 200_000)
    return tmp_path / "data"


def test_this_machine_can_train(class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "reports" / "doctor.json"
    assert command.main([f"data.root={class_folders}", f"out={tmp_path}", f"json={path}"]) == 0
    report = json.loads(path.read_text())
    found = {finding["what"]: finding for finding in report["findings"]}
    wanted = {"Python", "torch", "CUDA", "FFCV", "apex", "cores", "memory", "open files", "SLURM", "out", "data.root"}
    assert wanted <= set(found)
    assert {"disk", "page cache"} <= set(found)
    assert report["counts"].get("failed", 0) == 0
    assert all(finding["cure"] for finding in report["findings"] if finding["status"] != "ok")
    assert capsys.readouterr().out.count("\nok ") > 8


def test_the_command_and_its_help(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vitaos", "doctor", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "data.root=DIR" in shown.stdout
    assert command.main(["help"]) == 0


@pytest.mark.parametrize("words", [["data.rot=x"], ["json="], ["--fast"]])
def test_a_wrong_word_ends_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert "the keys are data.root=" in capsys.readouterr().err


def test_data_that_are_not_there_fail(tmp_path: Path) -> None:
    assert command.main([f"data.root={tmp_path / 'nowhere'}", f"out={tmp_path}"]) == 1
    (tmp_path / "photos").mkdir()
    (finding,) = data.root(str(tmp_path / "photos"))
    assert finding.status == "failed"
    assert "write_ffcv" in finding.cure
    (tmp_path / "photos" / "train").mkdir()
    assert data.root(str(tmp_path / "photos"))[-1].detail == "its files are empty or cannot be read"


def test_a_slow_disk_and_a_small_memory_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.beton").write_bytes(b"0" * 300_000)
    monkeypatch.setattr(data, "_read", lambda files, *, drop_cache: (300_000, 300_000, 1.0 if drop_cache else 1e-4))
    monkeypatch.setattr(data, "available_memory", lambda: 200_000)
    found = statuses(data.root(str(tmp_path)))
    assert found == {"data.root": "ok", "disk": "warning", "page cache": "ok", "data in memory": "warning"}


def test_slurm_variables_that_do_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert statuses(host.scheduler({})) == {"SLURM": "ok"}
    job = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "16"}
    assert statuses(host.scheduler(job)) == {"SLURM": "ok"}
    wrong = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "8"}
    assert statuses(host.scheduler(wrong)) == {
        "SLURM": "ok", "SLURM GPUs": "warning", "SLURM tasks": "warning", "SLURM cores": "warning",
    }  # fmt: skip
    assert statuses(host.scheduler(wrong | {"SLURM_GPUS_PER_TASK": "1", "SLURM_STEP_ID": "0"})) == {
        "SLURM": "ok", "SLURM cores": "warning",
    }  # fmt: skip
    monkeypatch.setattr(host, "usable_cores", lambda: 4)
    assert statuses(host.cores()) == {"cores": "warning"}
    assert statuses(host.threads({"OMP_NUM_THREADS": "4"})) == {"threads": "warning"}


@pytest.mark.parametrize(
    ("driver", "built", "status"),
    [(("", 0), "13.2", "warning"), (("470.1", 2), "13.2", "failed"), (("470.1", 2), None, "failed")],
)
def test_a_driver_and_a_torch_that_do_not_meet(
    driver: tuple[str, int], built: str | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(gpu, "_driver", lambda: driver)
    assert [finding.status for finding in gpu.cuda()] == [status]


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [("sm_90", (9, 0), True), ("sm_80", (8, 6), True), ("sm_86", (8, 0), False), ("sm_90", (7, 0), False),
     ("compute_90", (10, 0), True), ("compute_120", (9, 0), False), ("sm_90a", (9, 0), True),
     ("nothing", (9, 0), False)],
)  # fmt: skip
def test_which_code_runs_on_which_gpu(code: str, capability: tuple[int, int], runs: bool) -> None:
    assert gpu._runs(code, *capability) is runs


def test_packages_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_NEEDED", {"torch": (99, 0), "no-such-package": (1,)})
    assert statuses(software.packages()) == {"torch": "failed", "no-such-package": "failed"}
    monkeypatch.setattr(software.util, "find_spec", lambda name: None)
    assert statuses(software.ffcv() + software.apex()) == {"FFCV": "warning", "apex": "ok"}


def test_a_check_that_breaks_does_not_end_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError("no /proc")

    monkeypatch.setattr(command, "of_the_machine", lambda: [broken, software.python])
    found = command.examine(None, str(tmp_path))
    assert [finding.status for finding in found][:2] == ["failed", "ok"]
    assert "no /proc" in found[0].detail
