"""Makes torch ready for the null GPU, in the process that runs on it."""

import atexit
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.null_gpu import host_values, recording

_CONVOLUTIONS: list[torch.library.Library] = []  # torch forgets a registration when its library is collected


def prepare() -> None:
    """Switch off what is not stood in for, and start what the environment asks for."""
    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    _stand_in_for_convolutions()
    if os.environ.get("NULL_GPU_COMPUTE"):
        host_values.compute_everywhere()
    if path := os.environ.get("NULL_GPU_EVENTS"):
        record = recording.start()
        atexit.register(_append, Path(path), record)


def _stand_in_for_convolutions() -> None:
    """One launch forward and one for each gradient, as cuDNN makes; torch's own fallback makes two an image."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an override, by some versions
        library.impl("_slow_conv2d_forward", _convolution, "CUDA")
        library.impl("_slow_conv2d_backward.output_mask", _convolution_backward, "CUDA")
    _CONVOLUTIONS.append(library)


def _convolution(  # noqa: PLR0917 - aten's own order
    images: Tensor, weight: Tensor, kernel_size: Any, bias: Tensor | None, stride: Any, padding: Any
) -> Tensor:
    del bias
    sides = [
        (side + 2 * pad - kernel) // step + 1
        for side, pad, kernel, step in zip(images.shape[2:], padding, kernel_size, stride, strict=True)
    ]
    recording.launch(b"convolution forward")
    return images.new_empty(images.shape[0], weight.shape[0], *sides)


def _convolution_backward(  # noqa: PLR0917 - aten's own order
    gradient: Tensor, images: Tensor, weight: Tensor, kernel: Any, stride: Any, padding: Any, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    del kernel, stride, padding
    like = (images, weight, weight.new_empty(gradient.shape[1]))
    results: list[Tensor | None] = []
    for name, one, asked in zip((b"data", b"weight", b"bias"), like, wanted, strict=True):
        if asked:
            recording.launch(b"convolution backward, " + name)
        results.append(torch.empty_like(one) if asked else None)
    return results[0], results[1], results[2]


def _append(path: Path, record: recording.Record) -> None:
    """One line for this process."""
    recording.stop()
    if recording.count("launch"):
        line = {"launches": recording.count("launch"), "events": record.lines()}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
