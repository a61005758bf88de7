"""Applies drawn operations to a batch on the device: grouped by operation on the host, each group at once."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitaos.data.augment import color_ops, filter_ops, geometry_ops
from vitaos.data.augment.op_batch import OpBatch, Operation
from vitaos.data.augment.staging import StagingBuffer

# On the CPU a group is worked through in pieces that stay in cache; on a GPU at once.
_CPU_PIECE_VALUES: Final = 1 << 18

_Arrays = tuple[NDArray[Any], ...]

_TABLES: Final = (
    Operation.INVERT,
    Operation.POSTERIZE,
    Operation.SOLARIZE,
    Operation.SOLARIZE_ADD,
    Operation.BRIGHTNESS,
)


class Group(NamedTuple):
    """Images of a batch that share a kernel, with the staging handles of what it needs.

    Attributes:
        kernel: takes (images, *parameters, *shared), returns images.
        images: handle of the (n,) numbers of the images.
        parameters: handles of arrays with one row an image.
        shared: handles of arrays that all images share.
        size: n.
    """

    kernel: Callable[..., Tensor]
    images: int
    parameters: tuple[int, ...]
    shared: tuple[int, ...]
    size: int


class OpExecutor:
    """Plans operations on the host and runs them on the device.

    Args:
        fill: (3,) uint8, the color of what geometric operations bring in from outside.
    """

    def __init__(self, fill: NDArray[np.uint8]) -> None:
        self.fill = fill

    def plan(self, staging: StagingBuffer, op_batches: list[OpBatch], height: int, width: int) -> list[Group]:
        """Group the images by operation and stage what the kernels need."""
        fill = staging.add(self.fill)
        return [
            group for op_batch in op_batches for group in self._plan_op_batch(staging, op_batch, fill, height, width)
        ]

    def _plan_op_batch(
        self, staging: StagingBuffer, op_batch: OpBatch, fill: int, height: int, width: int
    ) -> list[Group]:
        groups: list[Group] = []
        for kernel in _KERNELS:
            here = np.flatnonzero(np.isin(op_batch.operations, kernel.operations))
            if len(here):
                part = OpBatch(op_batch.operations[here], op_batch.arguments[here])
                handles = tuple(staging.add(array) for array in kernel.parameters(part, height, width))
                shared = (fill,) if kernel.fills else ()
                groups.append(Group(kernel.apply, staging.add(here), handles, shared, len(here)))
        return groups

    def run(self, images: Tensor, groups: list[Group], device_tensors: list[Tensor]) -> Tensor:
        """Apply planned groups in order, in place.

        Args:
            images: uint8 (B, 3, H, W).
            groups: the plan.
            device_tensors: the staged arrays on the device of the images.
        """
        for group in groups:
            index = device_tensors[group.images]
            parameters = [device_tensors[handle] for handle in group.parameters]
            shared = [device_tensors[handle] for handle in group.shared]
            for piece in _pieces(group.size, images):
                chosen = index[piece]
                changed = group.kernel(take_images(images, chosen), *(p[piece] for p in parameters), *shared)
                put_images(images, chosen, changed)
        return images


def take_images(images: Tensor, index: Tensor) -> Tensor:
    """Copies of some images of a contiguous uint8 batch."""
    return _as_int64(images).index_select(0, index).view(torch.uint8).view(-1, *images.shape[1:])


def put_images(images: Tensor, index: Tensor, changed: Tensor) -> None:
    """Write images back to their places, in place."""
    _as_int64(images).index_copy_(0, index, _as_int64(changed.contiguous()))


def _as_int64(images: Tensor) -> Tensor:
    """(B, n) view of whole images, eight bytes an element where they divide: copies are several times faster."""
    flat = images.view(images.shape[0], -1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def _shifts(part: OpBatch, shear: Operation, *, extent: int, lines: int) -> _Arrays:
    """Whole and fractional shift of every line for images that are sheared or translated along one axis."""
    sheared = part.operations == shear
    slope = np.where(sheared, part.arguments, 0.0)
    offset = np.where(sheared, 0.0, part.arguments * extent)
    return geometry_ops.split_shifts(geometry_ops.line_shifts(slope, offset, lines))


def _factors(part: OpBatch, _height: int, _width: int) -> _Arrays:
    return (part.arguments.astype(np.float32),)


def _no_arrays(_part: OpBatch, _height: int, _width: int) -> _Arrays:
    return ()


class Kernel(NamedTuple):
    """How some operations run.

    Attributes:
        apply: takes (images, *parameters), then the fill color where it ``fills``; returns images.
        operations: those that it does.
        parameters: (images' operations, height, width) -> the arrays it takes, one row an image.
        fills: whether it brings in pixels from outside the image.
    """

    apply: Callable[..., Tensor]
    operations: tuple[Operation, ...]
    parameters: Callable[[OpBatch, int, int], _Arrays] = _no_arrays
    fills: bool = False


_KERNELS: Final = (
    Kernel(color_ops.apply_tables, _TABLES, lambda part, _height, _width: (color_ops.host_tables(part),)),
    Kernel(color_ops.auto_contrast, (Operation.AUTO_CONTRAST,)),
    Kernel(color_ops.equalize, (Operation.EQUALIZE,)),
    Kernel(color_ops.contrast, (Operation.CONTRAST,), _factors),
    Kernel(color_ops.color, (Operation.COLOR,), _factors),
    Kernel(filter_ops.sharpness, (Operation.SHARPNESS,), _factors),
    Kernel(
        filter_ops.gaussian_blur,
        (Operation.GAUSSIAN_BLUR,),
        lambda part, _height, _width: (filter_ops.blur_weights(part.arguments),),
    ),
    Kernel(
        geometry_ops.shift_rows,
        (Operation.SHEAR_X, Operation.TRANSLATE_X),
        lambda part, height, width: _shifts(part, Operation.SHEAR_X, extent=width, lines=height),
        fills=True,
    ),
    Kernel(
        geometry_ops.shift_columns,
        (Operation.SHEAR_Y, Operation.TRANSLATE_Y),
        lambda part, height, width: _shifts(part, Operation.SHEAR_Y, extent=height, lines=width),
        fills=True,
    ),
    Kernel(
        geometry_ops.rotate,
        (Operation.ROTATE,),
        lambda part, height, width: (geometry_ops.rotation_matrices(part.arguments, height, width),),
        fills=True,
    ),
)
"""In the order in which their groups run."""


def _pieces(size: int, images: Tensor) -> list[slice]:
    if images.device.type != "cpu":
        return [slice(0, size)]
    step = max(1, _CPU_PIECE_VALUES // max(1, images[0].numel()))
    return [slice(start, start + step) for start in range(0, size, step)]


def mean_color(mean: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The mean of the data set in gray levels, with which timm fills what comes from outside."""
    return np.array([min(255, round(255 * value)) for value in mean], np.uint8)


def apply_op_batch(images: Tensor, op_batch: OpBatch, fill: NDArray[np.uint8]) -> Tensor:
    """One operation an image on a copy of uint8 (B, 3, H, W) images; for tests and for looking at single operations."""
    executor, staging = OpExecutor(fill), StagingBuffer()
    groups = executor.plan(staging, [op_batch], images.shape[-2], images.shape[-1])
    return executor.run(images.clone(memory_format=torch.contiguous_format), groups, staging.send(images.device))
