"""Compiled training and evaluation: one graph each, no break, and none compiled again later."""

import json
from typing import Any

import pytest

from tests.null_gpu.launch import lines_of, run_or_skip

GRAPHS = 3  # training, evaluation, evaluation of the average


def check(cases: list[dict[str, Any]], count: int) -> None:
    assert len(cases) == count
    for case in cases:
        name, bands = case.pop("case"), case.pop("bands")
        assert bool(bands) == name.endswith("both"), f"{name}: the kernel of bands ran {bands} times in a step"
        assert case == {"graphs": [GRAPHS, GRAPHS], "breaks": {}, "evaluated batches": [60, 100]}, name


@pytest.mark.parametrize(
    "family", ["deit", pytest.param("cait", marks=pytest.mark.long), pytest.param("swin", marks=pytest.mark.long)]
)
def test_graphs_are_whole_and_none_is_compiled_again(family: str) -> None:
    """Graphs and their derivatives, in two epochs with a partial batch; without code for the device."""
    check(lines_of("tests.null_gpu.programs.compiled", "aot_eager", family), 2)


@pytest.mark.long
@pytest.mark.parametrize("family", ["deit", "cait", "swin"])
def test_the_code_for_the_device_compiles(family: str) -> None:
    """Inductor's and Triton's code for an H100: minutes."""
    check(lines_of("tests.null_gpu.programs.compiled", "inductor", family), 2)


@pytest.mark.long
def test_both_techniques_add_little_to_what_a_compiled_step_moves() -> None:
    """Forward and backward by Inductor's count: minutes."""
    sums = []
    for techniques in ("false", "true"):
        words = ("model=deit_s12", "depth=3", "batch_size=256", f"attnscale={techniques}", f"featscale={techniques}")
        done = run_or_skip("-m", "tests.null_gpu.programs.compiled_bytes", *words)
        assert done.returncode == 0, done.stderr[-2000:]
        megabytes = json.loads(done.stdout)["megabytes_an_image"]
        sums.append(megabytes["forward"] + megabytes["backward"])
    assert sums[0] < sums[1] <= 1.03 * sums[0]
