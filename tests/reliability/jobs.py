"""Real runs of train.py for tests: start one, kill it, compare what it leaves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.reliability.states import same
from vitaos.checkpoint.resume import load_checkpoint
from vitaos.metrics_reader import read_metrics

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180.0
TIMES = (
    "images_per_s",
    "tflops",
    "mfu",
    "memory_gb",
    "train_seconds",
    "epoch_seconds",
)  # what two equal runs may differ in


def wait_for(path: Path, patience_s: float = PATIENCE_S) -> Path:
    deadline = time.monotonic() + patience_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)
    return path


class Job:
    """One start of train.py, in one process or several."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks = folder, ranks
        self.pids: list[int] = json.loads(wait_for(folder / "pids.json").read_text())

    @property
    def ended(self) -> bool:
        return (self.folder / "codes.json").exists()

    def send(self, number: signal.Signals, *ranks: int) -> None:
        for rank in ranks or range(self.ranks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[rank], number)

    def send_to_group(self, number: signal.Signals, *ranks: int) -> None:
        """Signal the processes with all their helpers, as torchrun, SLURM and a terminal do."""
        for rank in ranks or range(self.ranks):
            os.killpg(self.pids[rank], number)

    def left_behind(self) -> list[str]:
        """Command lines of the processes of this job that still live."""
        living = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) in self.pids and fields[0] != "Z":
                    living.append(stat.with_name("cmdline").read_text())
        return living

    def codes(self) -> list[int]:
        """Exit codes, once all processes have ended."""
        return list(json.loads(wait_for(self.folder / "codes.json").read_text()))

    def text(self, rank: int = 0) -> str:
        return (self.folder / f"{rank}.txt").read_text()


class Launcher:
    """See ``launcher.py``. The folders of jobs are numbered below ``folder``; runs go to ``folder/runs``."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self._count = 0
        self._jobs: list[Job] = []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        environment.pop("WANDB_SERVICE", None)  # another test's wandb, which would still hold a killed run's identity
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.launcher"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, *overrides: str, ranks: int = 1, **environment: str) -> Job:
        """Start ``train.py data=digits WORDS``."""
        self._count += 1
        folder = self.folder / f"job{self._count}"
        folder.mkdir()
        request = {
            "job": str(folder),
            "arguments": self._arguments(overrides),
            "ranks": ranks,
            "environment": environment,
        }
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        self._jobs.append(Job(folder, ranks))
        return self._jobs[-1]

    def torchrun(self, *options: str, overrides: tuple[str, ...]) -> "subprocess.Popen[str]":
        """Start train.py under the real torchrun; its output comes from the process' stdout."""
        module = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        return subprocess.Popen(
            [*module, *options, "train.py", *self._arguments(overrides)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, *overrides: str, ranks: int = 1) -> Path:
        """Run to the end; the run folder that ``name=`` among the overrides means."""
        job = self.start(*overrides, ranks=ranks)
        assert job.codes() == [0] * ranks, job.text()
        return self.run_folder(overrides)

    def _arguments(self, overrides: tuple[str, ...]) -> list[str]:
        return ["data=digits", f"data.root={self.data}", f"out={self.folder / 'runs'}", "device=cpu", *overrides]

    def run_folder(self, overrides: tuple[str, ...]) -> Path:
        (name,) = [override.partition("=")[2] for override in overrides if override.startswith("name=")]
        return self.folder / "runs" / name

    def close(self) -> None:
        for job in self._jobs:
            if not job.ended:
                job.send(signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _untimed(value: Any) -> Any:
    return {key: item for key, item in value.items() if key not in TIMES}


def differences(first: Path, second: Path) -> list[str]:
    """In what two run folders differ, bit for bit: weights, EMA, optimizer, loss scale, progress, metrics lines."""
    states = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (first, second)]
    found = [key for key in ("model", "ema", "optimizer", "loss_scaler") if not same(states[0][key], states[1][key])]
    progress = [_untimed(state["progress"]) for state in states]
    if not same(*progress):
        found.append("progress")
    lines = [[_untimed(line) for line in read_metrics(folder / "metrics.jsonl")] for folder in (first, second)]
    if lines[0] != lines[1] or not lines[0]:
        found.append("metrics")
    return found


def largest_difference(first: Path, second: Path) -> float:
    """The largest difference of two runs' final weights."""
    weights = [load_checkpoint(folder / "checkpoints" / "last.pt")["model"] for folder in (first, second)]
    return max(float(torch.max(torch.abs(weights[0][key] - weights[1][key]))) for key in weights[0])
