"""Two thousand steps with evaluations and saves: memory, file descriptors and threads stay where they were."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.reliability.jobs import Job, Launcher, children_of, differences, wait_for
from vitaos.metrics_reader import read_metrics


class Held(NamedTuple):
    """What a process holds at one moment."""

    memory_kib: int
    descriptors: int
    threads: int


def _held(pid: int) -> Held:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Held(int(status["RssAnon"].split()[0]), descriptors, int(status["Threads"]))


def _watch(job: Job, metrics: Path) -> list[tuple[int, Held]]:
    """(metrics lines so far, held) of the main process, five times a second until it ends."""
    seen = []
    while not job.ended:
        with contextlib.suppress(OSError, KeyError):
            seen.append((len(read_metrics(metrics)), _held(job.pids[0])))
        time.sleep(0.2)
    return seen


@pytest.mark.long
@pytest.mark.parametrize("loader", ["folder", "ffcv"])
def test_two_thousand_steps_grow_nothing(loader: str, launcher: Launcher) -> None:
    name = f"name=marathon_{loader}"
    overrides = (
        "depth=1",
        "batch_size=16",
        "steps=2000",
        "epochs=25",
        "checkpoint_every=20",
        "keep=3",
        f"data.loader={loader}",
    )
    job = launcher.start(*overrides, name)
    folder = launcher.run_folder((name,))
    seen = _watch(job, folder / "metrics.jsonl")
    assert job.codes() == [0], job.text()
    last = seen[-1][0]
    early = [held for lines, held in seen if last // 4 <= lines < last // 2]
    late = [held for lines, held in seen if last * 3 // 4 <= lines]
    growth = max(held.memory_kib for held in late) / max(held.memory_kib for held in early)
    print(f"\n{loader}: memory x {growth:.3f}, early {max(early)}, late {max(late)}")
    assert growth < 1.05
    assert max(held.descriptors for held in late) <= max(held.descriptors for held in early)
    assert max(held.threads for held in late) <= max(held.threads for held in early)
    assert len(list((folder / "checkpoints").glob("step-*.pt"))) == 3


def _spread(launcher: Launcher, name: str, ranks: tuple[int, ...]) -> None:
    """Three steps of 96 images with each number of processes in turn, against one process that makes them all."""
    overrides = ("depth=2", "epochs=2", "data.loader=folder", "recipe.repeats=3", "recipe.erasing=0.25")
    total = 3 * len(ranks)
    launcher.run(*overrides, f"name={name}_one", "batch_size=96", f"steps={total}")
    for start, size in enumerate(ranks):
        many = (f"name={name}_many", f"batch_size={96 // size}", f"steps={3 * (start + 1)}")
        launcher.run(*overrides, *many, ranks=size)
    one, spread = (
        read_metrics(launcher.run_folder((f"name={name}_{kind}",)) / "metrics.jsonl")[-1] for kind in ("one", "many")
    )
    assert one["step"] == spread["step"] == total
    for key in ("train_loss", "val_loss", "grad_norm"):
        print(f"{key}: {abs(spread[key] / one[key] - 1):.1e}")
        assert spread[key] == pytest.approx(one[key], rel=1e-5), key


def test_another_number_of_processes(launcher: Launcher) -> None:
    """1 -> 3 -> 2 processes with the global batch held: the losses of one process to rounding."""
    _spread(launcher, "short", (1, 3, 2))


@pytest.mark.long
def test_four_numbers_of_processes(launcher: Launcher) -> None:
    """1 -> 4 -> 2 -> 3 processes, likewise."""
    _spread(launcher, "long", (1, 4, 2, 3))


@pytest.mark.long
def test_torchrun_restarts_from_the_newest_checkpoint(launcher: Launcher) -> None:
    overrides = ("depth=2", "epochs=4", "batch_size=32", "checkpoint_every=2", "data.loader=folder")
    calm = launcher.run(*overrides, "name=torchrun_calm", ranks=2)
    agent = launcher.torchrun("--nproc-per-node=2", "--max-restarts=2", overrides=(*overrides, "name=torchrun"))
    folder = launcher.run_folder(("name=torchrun",))
    wait_for(folder / "checkpoints" / "last.pt")
    main = json.loads((folder / "environment.json").read_text())["sessions"][-1]["pid"]
    (other,) = [pid for pid in children_of(agent.pid) if pid != main]
    started = time.monotonic()
    os.kill(other, signal.SIGKILL)
    output, _ = agent.communicate(timeout=180)
    assert agent.returncode == 0, output
    print(f"\ntorchrun had finished {time.monotonic() - started:.0f} s after the kill")
    assert "Lost rank" in output
    assert "resumed from" in output
    assert differences(calm, folder) == []
