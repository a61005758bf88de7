"""A model as a graph without Python: ONNX, or a program of ``torch.export``; the number of images stays free."""

from pathlib import Path

import torch
from torch import nn

_EXAMPLE_IMAGES = 2  # a batch of one would be taken for a constant


def export_onnx(model: nn.Module, path: Path, size: tuple[int, int, int]) -> Path:
    """Write an ONNX file with input ``images`` (B, channels, height, width) and output ``logits`` (B, classes).

    Args:
        model: in evaluation mode.
        path: the file to write.
        size: channels, height and width of the images.

    Raises:
        ValueError: the packages of the extra ``export`` are not installed.
    """
    try:
        import onnx  # noqa: F401, PLC0415  # optional
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ValueError(f"format=onnx needs {error.name}: pip install 'vitaos[export]'.") from error
    torch.onnx.export(
        model,
        (torch.zeros(_EXAMPLE_IMAGES, *size),),
        str(path),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


def export_program(model: nn.Module, path: Path, size: tuple[int, int, int]) -> Path:
    """Write a ``torch.export`` program (``torch.export.load(path).module()``) of (B, channels, height, width).

    Args:
        model: in evaluation mode.
        path: the file to write, ending in ``.pt2``.
        size: channels, height and width of the images.
    """
    example = torch.zeros(_EXAMPLE_IMAGES, *size)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path
