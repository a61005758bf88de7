"""FFCV's compiled library (JPEG decoding, area resize), through ctypes and without its Python package.

The package compiles nothing that reading needs, and its import costs three seconds and 200 MB (numba, torchvision's
transforms). ctypes lets go of Python's lock while a function of the library runs.
"""

import ctypes
from functools import cache
from importlib import util
from importlib.machinery import PathFinder
from typing import Final

import numpy as np
from numpy.typing import NDArray

INSTALL_HINT: Final = (
    "FFCV is not installed. scripts/setup.sh installs it (by hand, on Debian or Ubuntu: apt install libturbojpeg0-dev "
    "libopencv-dev pkg-config g++, then pip install ffcv==1.0.2). Without it, use data=imagefolder, "
    "or data.loader=folder for the digits"
)

_OPENCV_SET_THREADS: Final = "_ZN2cv13setNumThreadsEi"
"""``cv::setNumThreads(int)``."""


class Native:
    """The library's two functions, on NumPy arrays.

    Args:
        path: the compiled library.
    """

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._decode = library.imdecode
        self._decode.argtypes = [
            ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32,  # stream, its bytes, height, width
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32,  # pixels, height, width
            ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32,  # top, left, scale: numerator, divisor
            ctypes.c_bool, ctypes.c_bool,  # crop, flip
        ]  # fmt: skip
        self._resize = library.resize
        self._resize.argtypes = [ctypes.c_int64] * 11
        # The OpenCV that FFCV links has threads of its own; one image is one thread's work here.
        set_opencv_threads = getattr(library, _OPENCV_SET_THREADS, None)
        if set_opencv_threads is not None:
            set_opencv_threads(1)

    def decode_jpeg(self, address: int, size: int, shape: tuple[int, int], pixels: NDArray[np.uint8]) -> bool:
        """Decode ``size`` bytes at an address into ``pixels`` of (height, width); False when the decoder complains."""
        status = self._decode(address, size, *shape, pixels.ctypes.data, *shape, 0, 0, 1, 1, False, False)
        return bool(status == 0)

    def resize_area(self, source_HW3: NDArray[np.uint8], out_HW3: NDArray[np.uint8]) -> None:
        """Resize a whole image into ``out_HW3`` by OpenCV's INTER_AREA; both contiguous."""
        height, width = source_HW3.shape[:2]
        source, out = source_HW3.ctypes.data, out_HW3.ctypes.data
        self._resize(0, source, height, width, 0, height, 0, width, out, *out_HW3.shape[:2])


@cache
def native() -> Native:
    """The library, loaded once.

    Raises:
        ValueError: FFCV or one of its libraries is missing; the message explains how to install it.
    """
    package = util.find_spec("ffcv")
    library = package and PathFinder.find_spec("_libffcv", package.submodule_search_locations)
    if not library or library.origin is None:
        missing = "the package ffcv is missing" if package is None else "its compiled part, _libffcv, is missing"
        raise ValueError(f"{INSTALL_HINT} ({missing})")
    try:
        return Native(library.origin)
    except (OSError, AttributeError) as error:
        raise ValueError(f"{INSTALL_HINT} (loading its library said: {error})") from error
