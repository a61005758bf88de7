"""The lines of a run's ``metrics.jsonl``, as everyone reads them, and the numbers that JSON can hold."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file as dicts; a torn last line (a killed job's) is left out; [] when there is no file."""
    path = Path(path)
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def finite_or_null(value: Any) -> Any:
    """A value for JSON, which has no NaN or Infinity: they become null, however deep in mappings and lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return value
