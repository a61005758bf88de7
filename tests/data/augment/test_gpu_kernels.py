"""The Triton kernels give the pixels of torch's operations, which are Pillow's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("marked", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_the_kernels_give_the_pixels_of_torch(marked: str) -> None:
    """Triton reads whether to interpret when it is imported: a process of its own."""
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("interpreted_gpu_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
