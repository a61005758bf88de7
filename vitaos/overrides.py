"""The overrides of a command line, ``key=value``, before Hydra composes them.

Short forms are written in full. What Hydra's grammar takes for something else than a newcomer means (``~``, ``#``,
letters beyond ASCII, ``=``) is quoted; what it answers with an exception of its own is refused, with the key and what
would be right.
"""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Final, get_args, get_origin

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from vitaos.config import ConfigError, declared_fields, section_of, technique_flags
from vitaos.root import CONFIGS
from vitaos.suggest import did_you_mean
from vitaos.user_configs import user_folders

_OF_THE_GRAMMAR: Final = set("'\"[]{},\\")
"""Characters with a meaning: a value that holds one is quoted by whoever typed it, or not at all."""
_OPENING: Final = {"{": "}", "[": "]"}
_FREE_KEYS: Final = ("model.keywords.", "optimizer.keywords.", "recipe.lr_scale")
"""Keys whose own keys are the user's, so that none has a default here."""
_SLURM_LAUNCHERS: Final = ("slurm", "submitit_slurm")


def before_options(words: Sequence[str]) -> list[str]:
    """A command line with its options behind its overrides, wherever they were: Hydra's parser takes the overrides from
    one place alone, and calls those that somebody added behind an option unknown."""
    taking = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    given: list[str] = []
    options: list[str] = []
    before = None
    for word in words:
        is_its_value = (
            before is not None and before.nargs != 0 and (before.nargs is None or word in (before.choices or ()))
        )
        (options if is_its_value or word.startswith("-") else given).append(word)
        before = None if is_its_value else taking.get(word)
    return [*given, *options]


def expand(overrides: Sequence[str], config_name: str, schema: type[Any]) -> list[str]:
    """Write short forms in full: ``model=NAME`` for a name of timm's (``model=timm model.name=NAME``,
    several in a sweep), ``model=deit_s24_attnscale`` (``model=deit_s24 attnscale=true``),
    ``model.keywords.KEY=VALUE`` for a keyword
    that has no default here (``++model.keywords.KEY=VALUE``, and so for a technique's option, ``featscale.dc=-0.9``,
    and for ``data.roots``, which chooses ``data=imagenet`` where nothing else is chosen), ``k=20`` (``k=[20]``) where
    whole numbers are listed, ``logger=[wandb,tensorboard]`` (``logger=wandb logger.also=[tensorboard]``); leave out
    what chooses nothing where nothing is the default (``experiment=null``)."""
    may_be_null = {group for group, chosen in groups_of(config_name).items() if chosen is None}
    flags = technique_flags(schema)
    number_lists = {field.name for field, kind in declared_fields(schema) if kind == list[int]}
    expanded: list[str] = []
    for override in overrides:
        key, _, name = override.partition("=")
        names = [one.strip() for one in name.split(",")]  # several in a sweep
        foreign = key == "model" and name and not set(name) & set("${}[]") and not set(names) & set(choices_of("model"))
        ends = (flag for flag in flags if foreign and name.endswith(f"_{flag}"))
        technique = next((flag for flag in ends if name.removesuffix(f"_{flag}") in choices_of("model")), None)
        if name == "null" and key in may_be_null:
            continue
        if technique:
            expanded += [f"model={name.removesuffix(f'_{technique}')}", f"{technique}=true"]
        elif foreign and name != "null" and all(map(_is_timm_model, names)):
            expanded += ["model=timm", f"model.name={name}"]
        elif _is_roots(key):
            expanded.append(_unlike_a_number(_quoted(f"++{override}")))
        elif key.startswith((*_FREE_KEYS, *(f"{flag}." for flag in flags))):
            expanded.append(_quoted(f"++{override}"))
        elif key == "logger" and (several := _several(name)):
            expanded += [f"logger={several[0]}", f"logger.also=[{','.join(several[1:])}]"]
        elif key in number_lists and name.lstrip("-").isdigit():
            expanded.append(f"{key}=[{name}]")
        else:
            expanded.append(_as_text(_quoted(override), schema))
    keys = {word.partition("=")[0] for word in expanded}
    if groups_of(config_name).get("data", "") is None and "data" not in keys and any(_is_roots(key) for key in keys):
        expanded.insert(0, "data=imagenet")  # the datasets of a suite are ImageNet's relatives
    return expanded


def _several(value: str) -> list[str]:
    """The names of a list ``[a,b]``; empty for anything else."""
    if not (value.startswith("[") and value.endswith("]")):
        return []
    names = [name.strip() for name in value[1:-1].split(",")]
    return names if all(name.isidentifier() for name in names) else []


def _is_roots(key: str) -> bool:
    return key.lstrip("+").partition(".")[0] == "data" and key.split(".")[1:2] == ["roots"]


def refuse_several_values(overrides: Sequence[str]) -> None:
    """Refuse a sweep's ``key=a,b`` where no sweep was asked for.

    Raises:
        ConfigError: naming the override.
    """
    for word in overrides:
        if _parse(word).is_sweep_override():
            key, _, values = word.partition("=")
            raise ConfigError(
                f"{word}: several values are a sweep; add -m to run each of them, "
                f"or brackets for one list: {key}=[{values}]"
            )


def check(overrides: Sequence[str], config_name: str, schema: type[Any]) -> None:
    """Refuse the overrides of one job that Hydra would answer with a trace, or take for something else.

    Raises:
        ConfigError: naming the override and what would be right.
    """
    groups = groups_of(config_name)
    for word in overrides:
        override = _parse(word)
        key, value = override.get_key_element().lstrip("+~"), override.value()
        if key.startswith("hydra.sweeper.params"):
            raise ConfigError(f"{word}: on a command line the keys of a sweep stand for themselves: -m depth=12,24")
        if override.is_delete() or override.is_sweep_override() or "${" in word:
            continue
        if key in groups:
            _check_choice(word, key, value)
        elif key == "hydra/launcher" and value in _SLURM_LAUNCHERS:
            _check_slurm(word)
        else:
            _check_switch(word, key, value, schema)


def jobs(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The command line of each job: sweeps (``key=a,b``) multiplied out as Hydra's basic sweeper does."""
    choices: list[list[str]] = []
    for override in map(_parse, overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    return (list(job) for job in itertools.product(*choices))


@cache
def groups_of(config_name: str) -> dict[str, str | None]:
    """The groups that a command has, as its file under ``configs/`` names them, and what each is unless chosen."""
    path = CONFIGS / f"{config_name}.yaml"
    if not path.is_file():
        return {}
    entries = OmegaConf.to_container(OmegaConf.load(path))["defaults"]  # type: ignore[call-overload, index]
    found = [entry for entry in entries if isinstance(entry, dict)]
    return {key: value for entry in found for key, value in entry.items() if not key.startswith("override ")}


def own_choices_of(group: str) -> list[str]:
    """The choices of a group that vitaos brings."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def choices_of(group: str) -> list[str]:
    """The choices of a group: vitaos' own files and the user's."""
    return sorted(
        {*own_choices_of(group), *(path.stem for folder in user_folders() for path in (folder / group).glob("*.yaml"))}
    )


def _is_timm_model(name: str) -> bool:
    import timm  # noqa: PLC0415  # slow to import, and needed for a foreign name alone

    return bool(timm.is_model(name))


def _quoted(word: str) -> str:
    """The word with its value in quotes, where that is what Hydra needs to read it as it stands."""
    key, equals, value = word.partition("=")
    if not equals or not value or set(value) & _OF_THE_GRAMMAR or "${" in value or _parses(word):
        return word
    quoted = f"{key}='{value}'"
    return quoted if _parses(quoted) else word


def _as_text(word: str, schema: type[Any]) -> str:
    """The word with its value in quotes where the key takes text and Hydra would read a number: ``name=2026_11_27``."""
    level: Any = schema
    *path, leaf = word.partition("=")[0].lstrip("+").split(".")
    for part in path:
        level = next((section_of(kind) for field, kind in declared_fields(level) if field.name == part), None)
        if level is None:
            return word
    declared = [(field, kind) for field, kind in declared_fields(level) if field.name == leaf]
    takes_text = any(str in (kind, *get_args(kind)) and get_origin(kind) not in (list, dict) for _, kind in declared)
    names_files = any(field.metadata.get("is_path") for field, _ in declared)
    return _unlike_a_number(word) if takes_text or names_files else word


def _unlike_a_number(word: str) -> str:
    key, _, value = word.partition("=")
    if not value or set(value) & _OF_THE_GRAMMAR or not _parses(word):
        return word
    return f"{key}='{value}'" if isinstance(_parse(word).value(), (bool, int, float)) else word


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        shown = word.lstrip("+")
        raise ConfigError(f"{shown}: {_advice(shown)}") from error


def _advice(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return f"expected key=value, as {word.lstrip('~')}=... (~key takes a key away)"
    if not key.lstrip("+~").replace("/", "").replace(".", "").replace("_", "").replace("@", "").isalnum():
        return f"{key!r} is no name of a key; expected key=value"
    if not set(value) & _OF_THE_GRAMMAR:
        return "this value cannot be read"
    if value[0] in _OPENING and len(value) > 1 and _OPENING[value[0]] not in value:
        rest = f"...{_OPENING[value[0]]}"
        return f'the shell ended this word at a space; quote the whole of it: "{word}{rest}"'
    return f"a value with brackets, braces, commas or quotes of its own needs quotes around it: \"{key}='VALUE'\""


def _check_choice(word: str, group: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    known = choices_of(group)
    if value is None or not all(isinstance(name, str) or type(name) in (int, float) for name in names):
        raise ConfigError(f"{word}: expected a choice for {group}; valid: {', '.join(known)}")
    for name in names:
        nested = any((folder / group / f"{name}.yaml").is_file() for folder in (CONFIGS, *user_folders()))
        if not nested and group == "model" and isinstance(name, str) and (known_part := _model_in(name)):
            raise ConfigError(
                f"{word}: beside others, a name stands for a model alone: sweep over model={known_part} and the "
                "techniques' own keys (-m attnscale=true,false), or over names of timm's alone (-m model=NAME,NAME)"
            )
        if not nested:
            raise ConfigError(
                f"{word}: there is no {group}/{name}{did_you_mean(str(name), known)} Valid: {', '.join(known)}"
            )


def _model_in(name: str) -> str | None:
    """The model of a short form that no file has: ``deit_s24`` of ``deit_s24_attnscale``, a name of timm's itself."""
    with_technique = next((known for known in choices_of("model") if name.startswith(f"{known}_")), None)
    return with_technique or (name if _is_timm_model(name) else None)


def _check_slurm(word: str) -> None:
    if shutil.which("srun") is None or shutil.which("sbatch") is None:
        raise ConfigError(
            f"{word}: SLURM's commands srun and sbatch are not on this machine; submit from a node that has them, or "
            "leave it out to run the jobs here, one after another"
        )


def _check_switch(word: str, key: str, value: Any, schema: type[Any]) -> None:
    """Refuse numbers other than 0 and 1 for true and false: OmegaConf takes them all for true."""
    level: Any = schema
    for part in key.split("."):
        level = (
            next((kind for field, kind in declared_fields(level) if field.name == part), None)
            if is_dataclass(level)
            else None
        )
    if level is bool and isinstance(value, (int, float)) and value not in (0, 1):
        raise ConfigError(f"{word}: it must be true or false")
