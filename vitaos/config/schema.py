"""What a configuration's dataclasses say of themselves: their keys, marks and techniques."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Any, Final, TypeVar, get_args, get_type_hints

from vitaos.config.commands import TrainConfig

_FIRST_TECHNIQUES: Final = frozenset(
    {
        "attnscale",
        "featscale",
        "layerscale",
        "contranorm",
        "neutreno",
        "gfsa",
        "centered_attention",
        "re_attention",
    }
)
"""Those whose keys are in the first run folders, switched off or not; the keys of all others were added later."""


def added_keys(section: Any = TrainConfig, prefix: str = "") -> dict[str, Any]:
    """Keys that came after the first run folders were written (dotted), and their defaults.

    A run whose added key is at its default is the run that it was before the key existed: such keys are no part of its
    name and of what must agree when it goes on.
    """
    found: dict[str, Any] = {}
    for declared in fields(section):
        key = f"{prefix}{declared.name}"
        if declared.metadata.get("added"):
            made = declared.default_factory
            found[key] = declared.default if made is MISSING else made()
        elif declared.default_factory is not MISSING and is_dataclass(declared.default_factory):
            found |= added_keys(declared.default_factory, f"{key}.")
    return found


Config = TypeVar("Config")


def schema(
    base: type[Config], techniques: Iterable[str] | Mapping[str, str], *, known_as: tuple[str, str] | None = None
) -> type[Config]:
    """Extend a configuration dataclass by one key for each technique: a boolean, or a mapping of its options.

    `techniques` are their names, or name -> what ``--help`` says of it.
    ``known_as`` is the module and the name there under which the class will be found: a sweep's job on another machine
    has to find it there, since a pickled copy of a dataclass no longer knows which of its keys have no default.
    """
    meanings = techniques if isinstance(techniques, Mapping) else dict.fromkeys(techniques, "")
    extra = [
        (
            name,
            Any,
            field(
                default=False,
                metadata={"technique": True, "added": name not in _FIRST_TECHNIQUES, "help": meaning},
            ),
        )
        for name, meaning in meanings.items()
    ]
    made = make_dataclass(base.__name__, extra, bases=(base,))
    if known_as:
        made.__module__, made.__qualname__ = known_as
    return made


def technique_flags(config: Any) -> list[str]:
    """Names of the techniques among the keys of a configuration or of its class."""
    return [key.name for key in fields(config) if key.metadata.get("technique")]


def enabled_techniques(config: Any) -> dict[str, bool | dict[str, Any]]:
    """The techniques that a checked configuration switches on: name -> True or options (none: its defaults)."""
    values = {name: getattr(config, name) for name in technique_flags(config)}
    return {name: value for name, value in values.items() if value not in (None, False)}


def marked_keys(section: Any, *marks: str) -> set[str]:
    """Dotted names of the keys, and of whole sections, of a configuration dataclass that carry one of the marks."""
    found = set()
    for key, kind in declared_fields(section):
        if key.metadata.get("mark") in marks:
            found.add(key.name)
        elif is_dataclass(kind):
            found |= {f"{key.name}.{name}" for name in marked_keys(kind, *marks)}
    return found


def without_keys(flat: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """A flat configuration without some keys and sections."""
    sections = tuple(f"{name}." for name in left_out)
    return {key: value for key, value in flat.items() if key not in left_out and not key.startswith(sections)}


def flatten(tree: Any, whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys; mappings under the keys in `whole`, and empty ones, stay values."""
    if not isinstance(tree, Mapping) or not tree or prefix in whole:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, whole, f"{prefix}.{key}" if prefix else str(key))
    return flat


def declared_fields(section: Any) -> Iterator[tuple[Field[Any], Any]]:
    """The fields of a configuration dataclass with their types."""
    kinds = get_type_hints(section)
    return ((key, kinds[key.name]) for key in fields(section))


def section_of(kind: Any) -> type[Any] | None:
    """The dataclass of a key that is a section, also where it may be null."""
    return next((part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)), None)
