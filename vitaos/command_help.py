"""The text of ``--help``: the groups of a command with their choices, its keys with values, meanings and ranges."""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import Field
from typing import Any, Final

from vitaos import overrides
from vitaos.config import declared_fields, section_of

_COLUMN: Final = 36
_LAST: Final = "Every key can be set as key=value; --cfg job prints the result; -m key=a,b runs each; --version."


def help_text(about: str, config_name: str, schema: type[Any], config: Any) -> str:
    """All that a command takes.

    Args:
        about: what the command does.
        config_name: its file under ``configs/``.
        schema: the dataclass of its configuration.
        config: the configuration that the words beside ``--help`` stand for.
    """
    groups = [_row(group, ", ".join(overrides.choices_of(group))) for group in overrides.groups_of(config_name)]
    head = ["", "Groups (group=choice)", "", *groups] if groups else []
    keys = list(_rows(schema, config, ""))
    return "\n".join([about.strip(), *head, "", "Keys and their values", "", *keys, "", _LAST])


def describe_values(key: Field[Any]) -> str:
    """Which values a key takes, beyond its type: its choices or its range."""
    choices, bounds, count = (key.metadata.get(name) for name in ("choices", "bounds", "count"))
    if choices:
        return " | ".join(plain(choice) for choice in choices)
    if bounds is None:
        return ""
    return f"{count} numbers, each {bounds}" if count else str(bounds)


def plain(value: Any) -> str:
    """A value as it stands on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {plain(item)}' for name, item in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def _rows(schema: type[Any], config: Any, prefix: str) -> Iterator[str]:
    """The keys of a section, then those of the sections within it."""
    inner: list[str] = []
    for key, kind in declared_fields(schema):
        value, meaning = getattr(config, key.name, None), key.metadata.get("help", "")
        section = section_of(kind)
        if section is None:
            values = describe_values(key)
            yield _row(f"{prefix}{key.name}: {plain(value)}", f"{meaning} ({values})" if values else meaning)
        elif value is None:
            yield _row(f"{prefix}{key.name}: null", f"{meaning}; choose one with {key.name}=NAME")
        else:
            inner += ["", f"{prefix}{key.name}: {meaning}", *_rows(section, value, f"{prefix}{key.name}.")]
    yield from inner


def _row(left: str, right: str) -> str:
    width = max(60, min(120, shutil.get_terminal_size((110, 24)).columns))
    lines = textwrap.wrap(right, width - _COLUMN, break_long_words=False, break_on_hyphens=False)
    first = f"  {left}"
    if not lines:
        return first
    if len(first) >= _COLUMN:
        lines.insert(0, "")
    rest = [" " * _COLUMN + line for line in lines[1:]]
    return "\n".join([f"{first.ljust(_COLUMN) if lines[0] else first}{lines[0]}", *rest])
