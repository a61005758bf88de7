"""One drawn operation with its argument for every image of a batch: policies draw them, the executor applies them."""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Operation(IntEnum):
    """What can happen to an image, with the unit of the argument."""

    IDENTITY = 0
    AUTO_CONTRAST = 1  # no argument
    EQUALIZE = 2  # no argument
    INVERT = 3  # no argument
    POSTERIZE = 4  # bits kept
    SOLARIZE = 5  # gray level from which values are inverted
    SOLARIZE_ADD = 6  # gray levels added to values below 128
    BRIGHTNESS = 7  # factor, 1 is no change
    CONTRAST = 8  # factor, 1 is no change
    COLOR = 9  # factor, 0 is gray, 1 is no change
    SHARPNESS = 10  # factor, 0 is smooth, 1 is no change
    GAUSSIAN_BLUR = 11  # standard deviation in pixels, at most 2
    ROTATE = 12  # degrees, counter-clockwise
    SHEAR_X = 13  # source columns a row
    SHEAR_Y = 14  # source rows a column
    TRANSLATE_X = 15  # fraction of the width
    TRANSLATE_Y = 16  # fraction of the height


BLUR_ROWS: Final = 17
"""On a GPU alone: one pass of a Gaussian blur along the rows."""
BLUR_COLUMNS: Final = 18
"""On a GPU alone: one pass of a Gaussian blur along the columns."""


class OpBatch(NamedTuple):
    """One operation an image.

    Attributes:
        operations: (B,) int64 values of :class:`Operation`.
        arguments: (B,) float64, in the unit of the operation.
    """

    operations: NDArray[np.int64]
    arguments: NDArray[np.float64]
