"""Weights & Biases put off until it is used: timm imports it for one line of its own training script's summary."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["deferred", "find_elsewhere"]


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """While this is open, an import of the package `name` only notes it; the first use loads it."""
    finder = _Finder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def find_elsewhere(
    asking: MetaPathFinder, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    """The spec of a module as the finders other than `asking` have it; None where none of them knows it."""
    others = (finder for finder in sys.meta_path if finder is not asking and hasattr(finder, "find_spec"))
    found = (finder.find_spec(name, path, target) for finder in others)
    return next((spec for spec in found if spec is not None), None)


class _Finder(MetaPathFinder):
    """Finds one package as the other finders do, and has it loaded by its first use."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        spec = find_elsewhere(self, name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
