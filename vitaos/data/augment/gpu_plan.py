"""What the kernels of :mod:`gpu_kernels` do to a batch, decided on the host: a few arrays, whatever the batch holds."""

import functools
import importlib.util
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaos.data.augment import filter_ops, geometry_ops
from vitaos.data.augment.op_batch import BLUR_COLUMNS, BLUR_ROWS, OpBatch, Operation
from vitaos.data.augment.staging import Parcel, StagingBuffer

_PARAMETERS: Final = 6
_OF_HISTOGRAM: Final = np.zeros(BLUR_COLUMNS + 1, np.bool_)
_OF_HISTOGRAM[[Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.CONTRAST]] = True
_BLURS: Final = (BLUR_ROWS,) * 3 + (BLUR_COLUMNS,) * 3


@functools.cache
def have_triton() -> bool:
    """Whether Triton is installed, which all kernels are written in."""
    return importlib.util.find_spec("triton") is not None


class Layer(NamedTuple):
    """One operation an image: handles of (B,) int32 and (B, 6) float64, and whether one of them needs histograms."""

    operations: int
    parameters: int
    statistics: bool


class GpuPlan(NamedTuple):
    """A batch's augmentation, ready to travel.

    Attributes:
        parcel: all arrays.
        layers: what happens to the images once they are flipped, in order.
        flips: handle of (B,) uint8, 1 where an image is mirrored.
        fill: handle of (3,) uint8.
        boxes, bounds: handles; see :func:`~vitaos.data.augment.gpu_kernels.normalize_and_erase`.
    """

    parcel: Parcel
    layers: tuple[Layer, ...]
    flips: int
    fill: int
    boxes: int
    bounds: int


class Draws(NamedTuple):
    """What was drawn for a batch.

    Attributes:
        flips: (B,) bool.
        op_batches: operations, layer by layer.
        boxes: (N, 5) int64: image, top, left, height, width of erased rectangles.
        keys: (N,) of their noise.
    """

    flips: NDArray[np.bool_]
    op_batches: list[OpBatch]
    boxes: NDArray[np.int64]
    keys: NDArray[np.uint64]


def plan_for_gpu(draws: Draws, fill: NDArray[np.uint8], height: int, width: int, *, pin_memory: bool) -> GpuPlan:
    """Put everything that the kernels read into one parcel."""
    staging = StagingBuffer()
    layers = tuple(
        Layer(staging.add(operations), staging.add(parameters), bool(_OF_HISTOGRAM[operations].any()))
        for op_batch in draws.op_batches
        for operations, parameters in _passes(op_batch, height, width)
    )
    order = np.argsort(draws.boxes[:, 0], kind="stable")
    counts = np.bincount(draws.boxes[:, 0], minlength=len(draws.flips))
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    boxes = np.zeros((max(1, len(order)), 5), np.int64)
    boxes[: len(order), :4] = draws.boxes[order, 1:]
    boxes[: len(order), 4] = draws.keys[order].view(np.int64)
    rest = [staging.add(array) for array in (draws.flips.view(np.uint8), fill, boxes, bounds)]
    return GpuPlan(staging.pack(pin_memory=pin_memory), layers, *rest)


def _passes(op_batch: OpBatch, height: int, width: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """The operations of a layer with their parameters; a Gaussian blur takes six passes."""
    operations = op_batch.operations.astype(np.int32)
    if not operations.any():
        return
    parameters = np.zeros((len(operations), _PARAMETERS))
    parameters[:, 0] = op_batch.arguments
    turned = operations == Operation.ROTATE
    parameters[turned] = geometry_ops.rotation_matrices(op_batch.arguments[turned], height, width)
    # Shears and translations: slope, offset.
    for operation, extent in ((Operation.TRANSLATE_X, width), (Operation.TRANSLATE_Y, height)):
        moved = operations == operation
        parameters[moved, 0] = 0.0
        parameters[moved, 1] = op_batch.arguments[moved] * extent
    blurred = operations == Operation.GAUSSIAN_BLUR
    if not blurred.any():
        yield operations, parameters
        return
    parameters[blurred, :3] = filter_ops.blur_weights(op_batch.arguments[blurred])
    for number, along in enumerate(_BLURS):
        yield np.where(blurred, along, operations if number == 0 else 0).astype(np.int32), parameters
