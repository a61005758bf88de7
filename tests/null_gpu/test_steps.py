"""The whole training step on CUDA, without a GPU: nothing in it waits for the device, copies pageable memory or warns.

The device is the null GPU (``build.py``): torch's CUDA build over a driver that counts launches and computes nothing.
The loader's pinned batch, the full recipe's augmentation, forward, loss, backward, update, average and meter are the
real ones; the shapes are small. What it cannot see: values, races, speed, cuDNN, NCCL.
"""

import pytest

from tests.null_gpu.launch import lines_of


@pytest.mark.parametrize("family", ["deit", "cait", "swin"])
def test_no_step_waits_for_the_device(family: str) -> None:
    cases = lines_of("tests.null_gpu.programs.steps", family)
    assert len(cases) > 15
    assert [case for case in cases if case["faults"]] == []
