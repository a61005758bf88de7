"""A measurement's numbers in a file, with what they were made on."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_record(
    path: str | None, *, config: Mapping[str, Any], hardware: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write the JSON file `path`, where one is named: command, configuration, hardware and versions, numbers."""
    if path is None:
        return
    record = {"command": shlex.join(sys.orig_argv), "config": config, "hardware": hardware, "rows": rows}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
