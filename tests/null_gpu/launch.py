"""Runs programs on the null GPU, each as a process of its own: ``python -m tests.null_gpu.launch PROGRAM.py WORDS``."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.null_gpu.build import UnavailableError, library

ROOT: Final = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """Of a process on the null GPU.

    Raises:
        UnavailableError: it cannot be built here.
    """
    path = library()
    own = {
        "LD_PRELOAD": str(path),
        "LD_LIBRARY_PATH": str(path.parent),
        "TRITON_LIBCUDA_PATH": str(path.parent),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent / "site"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    return {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | own | more


def run(
    *words: str, timeout_s: float = 600, more: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``python WORDS`` on the null GPU to its end."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(**(more or {})),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def run_or_skip(*words: str, more: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """:func:`run` for a test, which is skipped where there is no null GPU."""
    try:
        return run(*words, more=more)
    except UnavailableError as error:
        pytest.skip(f"there is no null GPU here: {error}")


def lines_of(program: str, *words: str) -> list[dict[str, Any]]:
    """The JSON lines that a program of this folder prints; it has to end well."""
    done = run_or_skip("-m", program, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    """The command line: replaces this process by the program."""
    try:
        os.execvpe(sys.executable, [sys.executable, *sys.argv[1:]], environment())
    except UnavailableError as error:
        sys.exit(f"error: there is no null GPU here: {error}")


if __name__ == "__main__":
    main()
