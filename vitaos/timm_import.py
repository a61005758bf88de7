"""Make vitaos' names known to timm without importing timm, which takes seconds: at its import, before or after ours."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vitaos.deferred_imports import deferred, find_elsewhere

_REGISTRY = "vitaos.timm_registry"


def register_names() -> None:
    """Register the names with timm now where it is imported already, else as the last act of its import."""
    if "timm" in sys.modules:
        importlib.import_module(_REGISTRY)
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Finds timm as the other finders do, and has the names registered when it is loaded; once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_elsewhere(self, name, path, target)
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return spec
        load = loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            with deferred("wandb"):  # wanted for one line of the summary of timm's own training script
                load(module)
            importlib.import_module(_REGISTRY)

        loader.exec_module = load_and_register
        return spec
