"""Runs and sweeps under a real two-node SLURM: signalled, out of time, requeued, cancelled, and none the worse for it.

Run with ``pytest -m slurm tests/reliability/test_slurm.py``; see ``slurm_cluster.py`` for what it takes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.jobs import ROOT, Launcher, differences, wait_for
from tests.reliability.slurm_cluster import Cluster, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
WORDS = ("data=digits", "data.loader=folder", "depth=2", "device=cpu", "checkpoint_every=1000", "batch_size=64")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("slurm"))
    yield one
    one.stop()


def _submit(cluster: Cluster, output: Path, options: tuple[str, ...], overrides: tuple[str, ...]) -> str:
    variables = "ALL,VITAOS_HEAD=localhost,OMP_NUM_THREADS=1"
    command = ["sbatch", "--parsable", "--nodes=2", f"--chdir={ROOT}", f"--output={output}", f"--export={variables}"]
    return cluster.call(*command, *options, str(ROOT / "scripts/slurm/train.sbatch"), *overrides)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("slurm_runs")
    return (*WORDS, "epochs=12", "recipe.drop_path=0.1", f"data.root={folder / 'data'}", f"out={folder / 'runs'}")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("slurm_calm") / "out.txt"
    job = _submit(cluster, output, (), (*overrides, "name=calm"))
    assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", output.read_text()
    return _folder(overrides) / "calm"


def _folder(overrides: tuple[str, ...]) -> Path:
    (out,) = [override.partition("=")[2] for override in overrides if override.startswith("out=")]
    return Path(out)


def _is_training(folder: Path) -> None:
    metrics = wait_for(folder / "metrics.jsonl")
    deadline = time.monotonic() + 120
    while metrics.stat().st_size == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_signal_before_the_end_saves_and_requeues(
    cluster: Cluster, overrides: tuple[str, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """What ``--signal=B:USR1@120`` brings, sent at a moment of the test's choosing; the tracker sees one run."""
    output = tmp_path / "out.txt"
    job = _submit(cluster, output, (), (*overrides, "logger=wandb", "logger.mode=offline", "name=signalled"))
    _is_training(_folder(overrides) / "signalled")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    deadline = time.monotonic() + 120
    while "requeueing" not in output.read_text():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", output.read_text()
    text = output.read_text()
    assert "asked to leave at step" in text
    assert f"job {job}, start 2" in text
    assert "resumed from" in text
    assert cluster.field(job, "Restarts") == "1"
    folder = _folder(overrides) / "signalled"
    assert differences(undisturbed, folder) == []
    identity = (folder / "wandb_id.txt").read_text().strip()
    tracked = [path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")]
    assert tracked == [identity, identity]


def test_requeued_by_the_administrator(
    cluster: Cluster, overrides: tuple[str, ...], undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.txt"
    job = _submit(cluster, output, (), (*overrides, "name=requeued"))
    _is_training(_folder(overrides) / "requeued")
    cluster.call("scontrol", "requeue", job)
    while cluster.field(job, "Restarts") != "1":
        time.sleep(0.5)
    assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED", output.read_text()
    assert differences(undisturbed, _folder(overrides) / "requeued") == []


def test_a_run_that_cannot_start_ends_the_job_with_its_status(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    job = _submit(cluster, output, (), ("data=digits", "epochs=none"))
    assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "FAILED"
    assert "epochs" in output.read_text()
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob(".vitaos-preempted-*"))


def test_out_of_time(cluster: Cluster, overrides: tuple[str, ...], launcher: Launcher, tmp_path: Path) -> None:
    """A limit of one minute, which the run does not fit in: SLURM itself sends the signal, as often as it takes."""
    longer = (*WORDS, "epochs=24", "recipe.drop_path=0.1")
    output = tmp_path / "out.txt"
    options = ("--time=1", "--signal=B:USR1@15")
    job = _submit(cluster, output, options, (*overrides, "epochs=24", "name=timed"))
    assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", patience_s=540) == "COMPLETED"
    restarts = int(cluster.field(job, "Restarts"))
    print(f"\nsignalled by SLURM's clock {restarts} times")
    assert restarts >= 1
    assert output.read_text().count("vitaos: asked to end") == restarts
    calm = launcher.run(*longer, "name=untimed", ranks=2)
    assert differences(calm, _folder(overrides) / "timed") == []


def test_cancelled_by_its_owner(cluster: Cluster, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """SLURM asks a cancelled job to end in the same way; it saves, and stays cancelled."""
    output = tmp_path / "out.txt"
    job = _submit(cluster, output, (), (*overrides, "name=cancelled"))
    _is_training(_folder(overrides) / "cancelled")
    cluster.call("scancel", job)
    time.sleep(20)
    assert cluster.field(job, "JobState") == "CANCELLED", output.read_text()
    assert cluster.field(job, "Restarts") == "0"


Sweeps = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sweeps(cluster: Cluster) -> Iterator[Sweeps]:
    """Starts ``train.py -m``, a job of two nodes for each run."""
    resources = [f"hydra.launcher.{key}" for key in ("nodes=2", "gpus_per_node=null", "cpus_per_task=1")]
    variables = {"SLURM_CONF": str(cluster.configuration), "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
    started = []

    def start(*overrides: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "train.py", "-m", *resources, "hydra.launcher.timeout_min=30", *overrides]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env=os.environ | variables,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _wait_for_jobs(cluster: Cluster, count: int) -> list[str]:
    deadline = time.monotonic() + 60
    while len(jobs := sorted(cluster.call("squeue", "-h", "-r", "-o", "%i").split())) < count:
        assert time.monotonic() < deadline, jobs
        time.sleep(0.5)
    return jobs


@pytest.mark.parametrize("kind", ["slurm", "submitit_slurm"])
def test_a_sweep(kind: str, cluster: Cluster, overrides: tuple[str, ...], sweeps: Sweeps, launcher: Launcher) -> None:
    """Two runs of a sweep, one announced its end as submitit has SLURM do it, one requeued from outside."""
    folders = [_folder(overrides) / f"{kind}_{seed}" for seed in (1, 2)]
    sweep = sweeps(f"hydra/launcher={kind}", *overrides, "seed=1,2", f"name={kind}_${{seed}}")
    jobs = _wait_for_jobs(cluster, 2)
    _is_training(folders[0])
    cluster.call("scancel", "--signal=USR2", jobs[0])
    while cluster.field(jobs[0], "Restarts") != "1":
        time.sleep(0.5)
    _is_training(folders[1])
    cluster.call("scontrol", "requeue", jobs[1])
    while cluster.field(jobs[1], "Restarts") != "1":
        time.sleep(0.5)
    for job in jobs:
        assert cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
        assert cluster.field(job, "Restarts") == "1"
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output
    for seed, folder in zip((1, 2), folders, strict=True):
        log = (folder / "log.txt").read_text()
        assert "asked to leave at step" in log
        assert "resumed from" in log
        own = (f"seed={seed}", f"name=calm_{kind}_{seed}")
        assert differences(launcher.run(*WORDS, "epochs=12", "recipe.drop_path=0.1", *own, ranks=2), folder) == []


def test_a_sweep_tells_of_a_run_that_fails(sweeps: Sweeps, tmp_path: Path) -> None:
    overrides = ("data=imagefolder", f"data.root={tmp_path / 'nowhere'}", f"out={tmp_path / 'runs'}", "device=cpu")
    sweep = sweeps("hydra/launcher=slurm", *overrides, "seed=1,2")
    output, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 1
    assert "ended with exit status 2" in output
