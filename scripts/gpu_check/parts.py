"""The parts of the check, each a function of its context that says what it found, or raises."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vitaos.checkpoint.folder import step_files
from vitaos.checkpoint.resume import load_checkpoint
from vitaos.metrics_reader import read_metrics
from vitaos.root import ROOT

LEARNED: Final = 90.0  # per cent of held-out digits
_TESTS: Final = ("tests/engine", "tests/data/augment", "tests/checkpoint")
_NO_TESTS_RAN: Final = 5  # pytest's status


class NotHeldError(Exception):
    """A part found what must not be; the text says what, and where to read more."""


class NothingRanError(Exception):
    """A part had nothing to run here; the text says why."""


@dataclass(frozen=True)
class Context:
    """Where a check runs.

    Attributes:
        out: folder for everything that is written.
        device: "cuda" or "cpu"; on the CPU the parts are smaller.
        data_root: the user's data, for the doctor.
    """

    out: Path
    device: str
    data_root: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the real thing is checked."""
        return self.device == "cuda"

    def python(self, name: str, *arguments: str, limit_s: float) -> str:
        """Run ``python WORDS`` from the repository, its output in NAME.log; returns it.

        Raises:
            NotHeldError: it failed or took longer than `limit_s`.
        """
        log = self.out / f"{name}.log"
        with log.open("a", encoding="utf-8") as file:
            try:
                status = subprocess.run(
                    [sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=file, timeout=limit_s, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                raise NotHeldError(f"took longer than {limit_s:.0f} s; see {log}") from None
        output = log.read_text(encoding="utf-8", errors="replace")
        if status == _NO_TESTS_RAN and "pytest" in arguments:
            raise NothingRanError(_last_line(output))
        if status:
            raise NotHeldError(f"status {status}: {_last_line(output)}; see {log}")
        return output


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else "nothing was printed"


def doctor(context: Context) -> str:
    """The machine, by ``vitaos doctor``."""
    arguments = [f"data.root={context.data_root}"] if context.data_root else []
    arguments += [f"out={context.out}", f"json={context.out / 'doctor.details.json'}"]
    return _last_line(context.python("doctor", "scripts/doctor.py", *arguments, limit_s=300))


def tests(context: Context, *, name: str, files: tuple[str, ...], choose: str) -> str:
    """Tests marked `gpu`, chosen by pytest's -k."""
    arguments = ["-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-k", choose, *files]
    output = _last_line(context.python(name, *arguments, limit_s=300))
    if "passed" not in output:
        raise NothingRanError(f"{output}: they need a CUDA device")
    return output


def learns(context: Context, *, name: str, overrides: tuple[str, ...]) -> str:
    """A run on digits that has to reach 90%."""
    if "precision=fp16" in overrides and not context.on_gpu:
        raise NothingRanError("fp16 scales its loss on a CUDA device alone")
    arguments = ["data=digits", f"data.root={context.out / 'data'}", "data.loader=folder", f"device={context.device}"]
    arguments += [f"out={context.out / 'runs'}", f"name={name}", "depth=4", "evaluate_every=7", *overrides]
    context.python(name, "train.py", *arguments, limit_s=180 if context.on_gpu else 1800)
    records = read_metrics(context.out / "runs" / name / "metrics.jsonl")
    best = max(max(record.get("val_top1", 0.0), record.get("ema_top1", 0.0)) for record in records)
    if best < LEARNED:
        raise NotHeldError(f"{best:.1f}% of the held-out digits, less than {LEARNED:.0f}%")
    return f"{best:.1f}% of the held-out digits, {records[-1]['images_per_s']:.0f} images/s"


def resumes(context: Context, *, name: str, compiled: bool) -> str:
    """A run that is killed and continued ends in the very state of one that was not; 197 tokens, as on ImageNet."""
    steps, every = (240, 20) if context.on_gpu else (12, 2)
    precision = "bf16" if context.on_gpu else "fp32"
    arguments = [
        *("train.py", "data=digits", f"data.root={context.out / 'data'}", "data.loader=folder", "data.img_size=224"),
        *("model=deit_ti12", "depth=2", "attnscale=true", "featscale=true", "batch_size=16", "evaluate_every=100"),
        *(f"device={context.device}", f"precision={precision}", "deterministic=true", f"compile={compiled}".lower()),
        *(f"steps={steps}", f"checkpoint_every={every}", f"out={context.out / 'runs'}"),
    ]
    limit_s = 150 if context.on_gpu else 1800
    context.python(name, *arguments, f"name={name}-whole", limit_s=limit_s)
    folder = context.out / "runs" / f"{name}-cut" / "checkpoints"
    killed_at = _start_and_kill(context, name, [*arguments, f"name={name}-cut"], folder, limit_s)
    context.python(name, *arguments, f"name={name}-cut", limit_s=limit_s)
    whole, cut = (
        load_checkpoint(context.out / "runs" / f"{name}-{kind}" / "checkpoints" / "last.pt")
        for kind in ("whole", "cut")
    )
    different = [path for part in ("model", "ema", "optimizer") for path in differences(whole[part], cut[part], part)]
    if different:
        raise NotHeldError(f"{len(different)} tensors differ after the resumption, first {different[0]}")
    return f"killed after step {killed_at} of {steps}, continued: the same to the last bit"


def _start_and_kill(context: Context, name: str, arguments: list[str], folder: Path, limit_s: float) -> int:
    """Start a run and kill it once its first checkpoint lies there; the step of its newest one."""
    with (context.out / f"{name}.log").open("a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=file)
        try:
            end = time.monotonic() + limit_s
            while not (found := step_files(folder)):
                if process.poll() is not None or time.monotonic() > end:
                    raise NotHeldError(f"no checkpoint appeared; see {context.out / f'{name}.log'}")
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            status = process.wait()
    if status != -signal.SIGKILL:
        raise NotHeldError("the run ended before it could be killed: give it more steps")
    return found[0][0]


def differences(left: Any, right: Any, path: str) -> list[str]:
    """Places at which two nested states differ in a bit."""
    if isinstance(left, Tensor):
        return [] if isinstance(right, Tensor) and torch.equal(left, right) else [path]
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return [path]
        return [place for key in left for place in differences(left[key], right[key], f"{path}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [path]
        return [
            place
            for at, pair in enumerate(zip(left, right, strict=True))
            for place in differences(*pair, f"{path}[{at}]")
        ]
    return [] if left == right else [path]


def step(context: Context) -> str:
    """Rates of a training step, plain and with AttnScale, eager and compiled."""
    size = ["compile=both", "rounds=5", "steps=5"]
    if not context.on_gpu:
        size = ["depth=2", "batch_size=2", "rounds=1"]
    arguments = [
        "step",
        "mode=train",
        "attnscale=true",
        f"device={context.device}",
        f"out={context.out / 'step.details.json'}",
        *size,
    ]
    context.python("step", "scripts/benchmark.py", *arguments, limit_s=240 if context.on_gpu else 1800)
    rows = json.loads((context.out / "step.details.json").read_text())["rows"]
    best = max((row for row in rows if row["mode"] == "train"), key=lambda row: float(row["images_per_s"]))
    how = "compiled" if best["compiled"] else "eager"
    share = f"{100 * best['utilisation']:.0f}% of the peak"
    return f"{best['images_per_s']:.0f} images/s trained ({best['name']}, {how}, {share})"


def augment(context: Context) -> str:
    """Rates of the augmentation on the device and of timm's on the CPU."""
    size = ["batch_size=1024"] if context.on_gpu else ["batch_size=16", "batches=1", "images=16"]
    arguments = ["augment", f"device={context.device}", f"out={context.out / 'augment.details.json'}", *size]
    context.python("augment", "scripts/benchmark.py", *arguments, limit_s=120 if context.on_gpu else 600)
    ours, theirs = json.loads((context.out / "augment.details.json").read_text())["rows"][:2]
    return f"{ours['images_per_s']:.0f} images/s on the device, timm on a core {theirs['images_per_s']:.0f}"


_VALUES: Final = "test_gpu_values or test_pipeline_cuda"
PARTS: Final[dict[str, Callable[[Context], str]]] = {
    "doctor": doctor,
    "values": partial(tests, name="values", files=_TESTS, choose=_VALUES),
    "nccl": partial(tests, name="nccl", files=("tests/engine",), choose="nccl"),
    "tests": partial(
        tests, name="tests", files=_TESTS, choose=f"not nccl and not {_VALUES.replace(' or ', ' and not ')}"
    ),
    "learns-bf16": partial(learns, name="learns-bf16", overrides=("precision=bf16", "compile=false")),
    "learns-fp16": partial(learns, name="learns-fp16", overrides=("precision=fp16", "compile=false")),
    "learns-compiled": partial(learns, name="learns-compiled", overrides=("precision=bf16", "compile=true")),
    "resumes": partial(resumes, name="resumes", compiled=False),
    "resumes-compiled": partial(resumes, name="resumes-compiled", compiled=True),
    "step": step,
    "augment": augment,
}
