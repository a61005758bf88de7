"""What stands in a checkpoint beside the weights, read as plain values by code of our own.

Training scripts save their arguments with the weights: Swin's its yacs configuration, others numpy scalars,
``defaultdict`` or paths. A pickle names the class or function that makes each. The restricted unpickler gets the ones
below under those names, so that nothing of yacs, numpy or pathlib is imported or called for a file.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import numpy as np

_NUMBER: Final = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")
_PATHS: Final = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_FACTORIES: Final = ("list", "dict", "set", "int", "float", "str", "bool", "tuple")


class _PlainMapping:
    """A mapping with attributes (``yacs.config.CfgNode``): as the one mapping to which torch lets both be set."""

    def __new__(cls, *_: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


class _Dtype:
    """The type of a numpy scalar: kind and size as in ``f8``, and the order of bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise ValueError(f"a numpy scalar of type {code!r:.40} is no number")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """A numpy scalar as a Python number."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise TypeError("a numpy scalar is made of a type and bytes")
    (number,) = np.frombuffer(data, dtype=dtype.order + dtype.code).tolist()
    return number


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _factory(*_: Any) -> None:
    """What a ``defaultdict`` would make of a missing key: never called for one that is only read."""


def _path(*parts: str) -> str:
    """A path as text."""
    if not all(isinstance(part, str) for part in parts):
        raise TypeError("a path is made of texts")
    return "/".join(part.rstrip("/") if len(parts) > 1 else part for part in parts)


STAND_INS: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
    (_PlainMapping, "yacs.config.CfgNode"),
    (_Dtype, "numpy.dtype"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (_default_dict, "collections.defaultdict"),
    *((_factory, f"{module}.{name}") for module in ("builtins", "__builtin__") for name in _FACTORIES),
    *((_path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS),
]
