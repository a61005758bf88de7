"""The commands as typed: exit statuses, help, sweeps, and several processes that leave one run folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
SMALL = ["data=digits", "depth=2", "batch_size=32", "steps=2", "device=cpu", "data.loader=folder", "data.workers=0"]


def command(*arguments: str, launcher: tuple[str, ...] = (), folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_a_wrong_word_ends_with_status_2_and_one_message(tmp_path: Path) -> None:
    done = command(str(ROOT / "train.py"), "model=deit_s12", "atnscale=true", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean attnscale" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_job_of_a_sweep_is_checked_before_the_first(tmp_path: Path) -> None:
    done = command(str(ROOT / "train.py"), "-m", *SMALL, f"data.root={tmp_path / 'd'}", "seed=0,x", folder=tmp_path)
    assert done.returncode == 2
    assert "seed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_in_a_file_is_checked_and_one_name_is_no_folder_for_several_jobs(tmp_path: Path) -> None:
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      depth: 1,5000\n"
    )
    done = command(str(ROOT / "train.py"), "-m", *SMALL[:1], *SMALL[2:], "experiment=mine", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "depth=5000" in done.stderr
    done = command(str(ROOT / "train.py"), *SMALL, "name=x", "-m", "seed=0,1", folder=tmp_path)
    assert done.returncode == 2
    assert "name=x: jobs of this sweep would share one run folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_several_values_without_a_sweep_end_with_status_2(tmp_path: Path) -> None:
    done = command(str(ROOT / "train.py"), *SMALL, f"data.root={tmp_path / 'd'}", "seed=0,1", folder=tmp_path)
    assert done.returncode == 2
    assert "seed=0,1: several values are a sweep; add -m" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_cfg_show_groups_and_techniques(tmp_path: Path) -> None:
    shown = command(str(ROOT / "train.py"), "--help", folder=tmp_path)
    assert shown.returncode == 0
    assert "deit_s24" in shown.stdout
    assert "attnscale: false" in shown.stdout
    printed = command(str(ROOT / "train.py"), "model=deit_s24", "--cfg", "job", "attnscale=true", folder=tmp_path)
    assert printed.returncode == 0
    assert "attnscale: true" in printed.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_runs_each_combination_in_its_own_folder(tmp_path: Path) -> None:
    overrides = ["-m", *SMALL, f"data.root={tmp_path / 'd'}", "out=runs", "attnscale=true,false"]
    done = command(str(ROOT / "train.py"), *overrides, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = [path.parent for path in (tmp_path / "runs").glob("*/metrics.jsonl")]
    assert len(folders) == 2


@pytest.mark.parametrize("processes", [2])
def test_several_processes_leave_one_run_folder(tmp_path: Path, processes: int) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    overrides = [*SMALL, f"data.root={tmp_path / 'd'}", "out=runs", "attnscale=true"]
    done = command(str(ROOT / "train.py"), *overrides, launcher=launcher, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "metrics.jsonl").read_text().count("\n") == 1
    assert done.stdout.count("finished after") == 1
    evaluated = command(str(ROOT / "eval.py"), f"checkpoint={folder}", "device=cpu", launcher=launcher, folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.count("images 360") == 2  # raw and averaged, told once
