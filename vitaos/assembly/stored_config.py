"""The configuration stored in a checkpoint: plain values, checked before anything looks at them.

A checkpoint may come from anywhere. What it holds describes a model and its data and does nothing else: no
interpolation in it is resolved (``${oc.env:NAME}`` would put a variable of this machine into names and reports).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitaos import config_check
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import ConfigError

_MAX_DEPTH: Final = 16
_MAX_VALUES: Final = 10_000
_PLAIN: Final = (bool, int, float, str, type(None))


def restore(stored: Any, source: str | Path) -> Any:
    """The checked configuration of a stored run.

    Args:
        stored: what the checkpoint holds under ``config``.
        source: the checkpoint, named in errors.

    Raises:
        ConfigError: it is no mapping of plain values, holds an interpolation, or does not fit this version's keys.
    """
    try:
        if not isinstance(stored, Mapping):
            raise ConfigError(f"it is a {type(stored).__name__}, expected a mapping of keys to values")
        _check_values(stored)
        _check_sections(stored)
        try:
            return config_check.check(OmegaConf.create(dict(stored)), TRAIN_SCHEMA)
        except (OmegaConfBaseException, TypeError, OverflowError) as error:
            raise ConfigError(str(error).splitlines()[0]) from error
    except ConfigError as error:
        raise ConfigError(f"{source}: its config cannot be used: {error}") from error


def _check_values(stored: Mapping[Any, Any]) -> None:
    """Refuse everything but nested mappings and lists of plain values."""
    for count, (key, value) in enumerate(_walk(stored, "", 0)):
        if count >= _MAX_VALUES:
            raise ConfigError(f"it holds more than {_MAX_VALUES:,} values")
        if not isinstance(value, _PLAIN):
            raise ConfigError(f"{key}: a {type(value).__name__} is no plain value (text, number, true, false, null)")
        if isinstance(value, str) and ("${" in value or value == "???"):
            raise ConfigError(f"{key}={value[:80]!r}: a stored value is final; interpolations are not resolved")


def _check_sections(stored: Mapping[Any, Any]) -> None:
    """Refuse a single value where the schema has a section."""
    for field in dataclasses.fields(TRAIN_SCHEMA):
        is_section = dataclasses.is_dataclass(field.default_factory)
        if is_section and not isinstance(stored.get(field.name, {}), Mapping):
            raise ConfigError(f"{field.name}={stored[field.name]!r:.80}: expected a mapping of keys to values")


def _walk(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The values of a tree, and the names in its mappings, each with its dotted key."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{key[:80]}: nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for name, item in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if not isinstance(name, str) or "${" in name:
                raise ConfigError(f"{inner[:80]}: not a name of a key")
            yield from _walk(item, inner, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, f"{key}[{index}]", depth + 1)
    else:
        yield key, value
