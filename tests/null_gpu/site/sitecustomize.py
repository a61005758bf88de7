"""On the path of every program that runs on the null GPU: prepares torch as soon as it is imported.

cuDNN is not stood in for, so it is switched off. ``NULL_GPU_COMPUTE=1`` makes small programs compute (host_values.py),
``NULL_GPU_EVENTS=FILE`` writes down at the end what the host waited for (recording.py).
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _PrepareTorch(MetaPathFinder):
    """Lets torch be found as usual and adds the preparation to the end of its import."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_prepare(module: ModuleType) -> None:
            execute(module)
            from tests.null_gpu import preparation  # noqa: PLC0415  # torch had to be there first

            preparation.prepare()

        spec.loader.exec_module = execute_and_prepare  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _PrepareTorch())
