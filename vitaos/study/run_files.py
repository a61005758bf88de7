"""The files of a run folder, read as data: whatever they hold, they give plain values or an error that names the file.

A folder may have been written by another program, cut off by a full disk or made to do harm: no interpolation is
resolved, YAML aliases (which expand without end) are refused, and sizes are bounded.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from vitaos.metrics_reader import read_metrics

__all__ = ["read_config", "read_epochs", "read_sessions", "read_step", "read_top1"]

_MAX_CONFIG_BYTES: Final = 1_000_000
_STEP: Final = re.compile(r"/step-(\d+)\.pt$")
_OPTIONAL_INT: Final = (int, type(None))
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "depth": _OPTIONAL_INT,
    "steps": _OPTIONAL_INT,
    "epochs": (int,),
    "batch_size": (int,),
    "accumulate": (int,),
    "skip_gain": (int, float, type(None)),
}  # of the keys that a report computes with, where they are there


class _DataLoader(yaml.SafeLoader):
    """YAML's plain values alone, numbers as OmegaConf writes them (``1e-05`` is one), no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="YAML aliases are refused", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


_DataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_config(path: Path) -> dict[str, Any]:
    """The mapping of a ``config.yaml``; interpolations stay the text that they are.

    Raises:
        ValueError: it is no file, too large, no YAML, or has values of the wrong type; the message names the file.
        OSError: it cannot be read.
    """
    _require_file(path)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_CONFIG_BYTES:,} bytes: no configuration of a run")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_DataLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        where = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML that a run writes: {where}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: no configuration of a run") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, not the keys of a configuration")
    _check_types(path, config)
    return config


def _check_types(path: Path, config: Mapping[str, Any]) -> None:
    for section in ("model", "data"):
        if not isinstance(config.get(section), dict) or not isinstance(config[section].get("name"), str):
            raise ValueError(f"{path}: {section}.name is missing or no text")
    keywords = config["model"].get("keywords") or {}
    if not isinstance(keywords, dict):
        raise ValueError(f"{path}: model.keywords={keywords!r} is no mapping")
    for prefix, values in (("", config), ("model.keywords.", keywords)):
        for key, allowed in _TYPES.items():
            if key in values and (not isinstance(values[key], allowed) or isinstance(values[key], bool)):
                names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
                raise ValueError(f"{path}: {prefix}{key}={values[key]!r} is not {names}")
    depths = keywords.get("depths") or ()
    if not isinstance(depths, (list, tuple)) or not all(isinstance(depth, int) for depth in depths):
        raise ValueError(f"{path}: model.keywords.depths={depths!r} is no list of integers")
    try:
        hash(config.get("seed"))
    except TypeError:
        raise ValueError(f"{path}: seed={config.get('seed')!r} is no number") from None


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, [] where there is no file.

    Raises:
        ValueError: it is a folder, or a line has no whole numbers as epoch and step; the message names the file.
        OSError: it cannot be read.
    """
    if not path.exists():
        return []
    _require_file(path)
    try:
        lines = read_metrics(path)
    except RecursionError as error:
        raise ValueError(f"{path}: a line is nested too deeply") from error
    for line in lines:
        for key in ("epoch", "step"):
            if type(line.get(key)) is not int:
                raise ValueError(f"{path}: a line has {key}={line.get(key)!r}, which is no whole number")
    return lines


def read_sessions(path: Path) -> list[dict[str, Any]]:
    """The starts in ``environment.json``, oldest first, from the last that began anew on; none without the file.

    Raises:
        ValueError: there is something of that name, but not what a run writes; the message names it.
        OSError: it cannot be read.
    """
    if not path.exists():
        return []
    _require_file(path)
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        starts = [dict(session) for session in sessions]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no list of sessions as a run writes it") from error
    for key in ("hardware", "code"):
        if starts and not isinstance(starts[-1].get(key, {}), dict):
            raise ValueError(f"{path}: {key}={starts[-1][key]!r} is no mapping")
    if any(
        "epochs" in start and not {type(start["epochs"]), type(start.get("from_step"))} <= {int} for start in starts
    ):
        raise ValueError(f"{path}: epochs and from_step of a session are whole numbers")
    anew = [index for index, start in enumerate(starts) if start.get("resumed_from") is None]
    return starts[anew[-1] :] if anew else starts


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is no file")


def read_top1(folder: Path, pattern: str) -> float | None:
    """Top-1 that ``eval.py`` wrote into the one file of this pattern: of the average where there is one, else of the
    weights themselves; None where there is no such file, several, or a damaged one."""
    try:
        weights = _read_only_file(folder, pattern)["weights"]
        top1 = weights.get("ema", weights["raw"])["top1"]
    except (KeyError, TypeError, AttributeError):
        return None
    return float(top1) if isinstance(top1, (int, float)) else None


def read_step(folder: Path, pattern: str) -> int | None:
    """The global step that ``eval.py`` judged, by the one file of this pattern; None where nothing says it."""
    found = _read_only_file(folder, pattern)
    if isinstance(found.get("step"), int):
        return int(found["step"])
    named = _STEP.search(str(found.get("checkpoint")))
    return int(named.group(1)) if named else None


def _read_only_file(folder: Path, pattern: str) -> dict[str, Any]:
    """The mapping in the one file of this pattern; empty where there is no such file, several, or a damaged one."""
    files = sorted(folder.glob(pattern))
    try:
        if len(files) != 1 or files[0].stat().st_size > _MAX_CONFIG_BYTES:
            return {}
        found = json.loads(files[0].read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
