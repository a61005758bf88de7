"""kill -9 at random moments, the same command again: the run that finishes is the run nobody touched, bit for bit.

The runs are real ones of train.py on real digits, with all that draws random numbers switched on: dropout, drop path,
mixup, cutmix, erasing, repeated augmentation, and gradient accumulation; one process and two; through folders and FFCV.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.reliability.jobs import Job, Launcher, differences, wait_for
from vitaos.assembly.session import EXIT_NONFINITE
from vitaos.checkpoint.resume import load_checkpoint
from vitaos.metrics_reader import read_metrics
from vitaos.runtime.preemption import EXIT_PREEMPTED, MARKER_VARIABLE

SMALL = (
    *("depth=2", "epochs=2", "accumulate=2", "checkpoint_every=2", "log_every=3", "attnscale=true", "featscale=true"),
    *("recipe.pos_drop=0.1", "recipe.proj_drop=0.1", "recipe.drop_path=0.1", "recipe.mixup=0.8", "recipe.cutmix=1.0"),
    *("recipe.repeats=3", "recipe.erasing=0.25", "recipe.clip=1.0"),
)
KILLS_LONG = int(os.environ.get("VITAOS_KILLS", "100"))


def _overrides(loader: str, ranks: int) -> tuple[str, ...]:
    return (*SMALL, f"data.loader={loader}", f"batch_size={64 // ranks}")


def _kill_repeatedly(
    launcher: Launcher, overrides: tuple[str, ...], ranks: int, kills: int, chance: random.Random
) -> int:
    """Start the run, kill it at a random moment, start it again, until it has been killed ``kills`` times or finishes.

    Returns:
        How many times it was killed.
    """
    folder = launcher.run_folder(overrides)
    for kill in range(kills):
        job = launcher.start(*overrides, ranks=ranks)
        session = folder / "environment.json"
        while not job.ended and (not session.exists() or session.read_text().count('"started"') <= kill):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.6))
        if job.ended:
            assert job.codes() == [0] * ranks, job.text()
            return kill
        job.send(signal.SIGKILL)
        assert job.codes() == [-signal.SIGKILL] * ranks
    launcher.run(*overrides, ranks=ranks)
    return kills


@pytest.mark.parametrize(("loader", "ranks"), [("folder", 2), ("ffcv", 1)])
def test_killed_three_times(loader: str, ranks: int, launcher: Launcher) -> None:
    overrides = _overrides(loader, ranks)
    undisturbed = launcher.run(*overrides, f"name=calm_{loader}_{ranks}", ranks=ranks)
    overrides = (*overrides, f"name=killed_{loader}_{ranks}")
    killed = _kill_repeatedly(launcher, overrides, ranks, 3, random.Random(ranks))
    assert killed == 3
    assert differences(undisturbed, launcher.run_folder(overrides)) == []


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("loader", ["folder", "ffcv"])
def test_killed_a_hundred_times(loader: str, ranks: int, launcher: Launcher) -> None:
    """A quarter of VITAOS_KILLS (100) each; every finished run must equal the undisturbed one."""
    chance = random.Random(int(os.environ.get("VITAOS_KILL_SEED", "0")))
    overrides = _overrides(loader, ranks)
    undisturbed = launcher.run(*overrides, f"name=long_calm_{loader}_{ranks}", ranks=ranks)
    killed, trial = 0, 0
    while killed < KILLS_LONG // 4:
        trial += 1
        named = (*overrides, f"name=long_{loader}_{ranks}_{trial}")
        killed += _kill_repeatedly(launcher, named, ranks, chance.randint(1, 8), chance)
        assert differences(undisturbed, launcher.run_folder(named)) == [], f"trial {trial}"
    print(f"\n{loader}, {ranks} processes: killed {killed} times in {trial} runs, all equal")


def _after_step(launcher: Launcher, job: Job, overrides: tuple[str, ...]) -> None:
    """Wait until the run is in its steps: its first checkpoint is there."""
    wait_for(launcher.run_folder(overrides) / "checkpoints" / "last.pt")
    assert not job.ended


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_asked_to_leave(number: signal.Signals, ranks: int, launcher: Launcher, tmp_path: Path) -> None:
    """One rank is asked; all leave at one step within 10 s with the state saved; the rest is as if nothing had been."""
    overrides = (*_overrides("folder", ranks), f"name=asked_{ranks}")
    marker = tmp_path / "preempted"
    job = launcher.start(*overrides, ranks=ranks, **{MARKER_VARIABLE: str(marker)})
    _after_step(launcher, job, overrides)
    start = time.monotonic()
    job.send_to_group(number, ranks - 1)
    assert job.codes() == [EXIT_PREEMPTED] * ranks, job.text()
    seconds = time.monotonic() - start
    print(f"\n{number.name} to one of {ranks}: saved and left in {seconds:.1f} s")
    assert seconds < 10
    assert "the state is saved" in job.text()
    assert marker.exists()
    launcher.run(*overrides, ranks=ranks)
    calm = launcher.run(*overrides[:-1], f"name=asked_calm_{ranks}", ranks=ranks)
    assert differences(calm, launcher.run_folder(overrides)) == []


def test_two_jobs_in_one_folder(launcher: Launcher) -> None:
    overrides = (*_overrides("folder", 1), "name=twice")
    first = launcher.start(*overrides)
    _after_step(launcher, first, overrides)
    second = launcher.start(*overrides)
    assert second.codes() == [2]
    assert f"in use by process {first.pids[0]} on host" in second.text()
    first.send(signal.SIGKILL)
    launcher.run(*overrides)


def test_a_killed_rank_ends_the_other_by_name(launcher: Launcher) -> None:
    overrides = (*_overrides("folder", 2), "name=lost_rank")
    job = launcher.start(*overrides, ranks=2)
    _after_step(launcher, job, overrides)
    start = time.monotonic()
    job.send(signal.SIGKILL, 1)
    codes = job.codes()
    seconds = time.monotonic() - start
    print(f"\nrank 1 of 2 killed: rank 0 ended {seconds:.1f} s later")
    assert seconds < 15
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, EXIT_PREEMPTED)
    assert f"Lost rank 1 (process {job.pids[1]} on host" in job.text()
    deadline = time.monotonic() + 15
    while job.left_behind():
        assert time.monotonic() < deadline, job.left_behind()
        time.sleep(0.2)


def test_the_tracker_sees_one_run(launcher: Launcher) -> None:
    """Killed and started again, a run is the same one to Weights & Biases."""
    overrides = (*_overrides("folder", 1), "logger=wandb", "logger.mode=offline", "name=tracked")
    folder = launcher.run_folder(overrides)
    job = launcher.start(*overrides)
    _after_step(launcher, job, overrides)
    identity = (folder / "wandb_id.txt").read_text().strip()
    job.send(signal.SIGKILL)
    assert job.codes() == [-signal.SIGKILL]
    launcher.run(*overrides)
    assert (folder / "wandb_id.txt").read_text().strip() == identity
    runs = [path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")]
    assert runs == [identity, identity]


@pytest.mark.parametrize("answer", ["stop", "skip"])
def test_a_loss_that_is_not_finite(answer: str, launcher: Launcher) -> None:
    """After a step with a huge learning rate every loss overflows, on both of two processes."""
    overrides = (
        *("depth=2", "epochs=1", "batch_size=64", "data.loader=folder", "log_every=1"),
        *("recipe.lr=1e30", "recipe.warmup_lr=1e30", "recipe.clip=null"),
        *(f"nonfinite={answer}", f"name=nonfinite_{answer}"),
    )
    job = launcher.start(*overrides, ranks=2)
    folder = launcher.run_folder(overrides)
    if answer == "stop":
        assert job.codes() == [EXIT_NONFINITE] * 2, job.text()
        last = load_checkpoint(folder / "checkpoints" / "last.pt")
        assert f"step {last['progress']['step']}" in job.text()
        assert all(bool(torch.isfinite(value).all()) for value in last["model"].values())
    else:
        assert job.codes() == [0] * 2, job.text()
        (line,) = read_metrics(folder / "metrics.jsonl")
        assert line["skipped_steps"] > 0
