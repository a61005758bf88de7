"""From a command line to a checked configuration and one story: the door of every command of vitaos.

Hydra composes and sweeps. What is added: the whole command line (each job of a sweep included) is checked before the
first job starts, and whatever the user can mend ends with one clear message and exit status 2 instead of a stack trace.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vitaos import config, user_configs
from vitaos.root import ROOT
from vitaos.runtime import submitit as sweep_jobs

CONFIGS = ROOT / "configs"
USER_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT


def run(
    story: Callable[[Any], int | None],
    *,
    config_name: str,
    declared: type[Any],
    toggles: Iterable[str] = (),
    about: str = "",
) -> NoReturn:
    """Run a command and end the process with its exit status.

    Args:
        story: what the command does with its checked configuration; returns an exit status, None for 0.
        config_name: primary file under ``configs/``; without such a file the declared keys are the whole configuration.
        declared: the dataclass of the configuration.
        toggles: names of the techniques that are keys of it.
        about: text for ``--help``.

    Raises:
        SystemExit: always; status 2 for what the user can mend, 130 after Ctrl-C, the story's own status otherwise.
    """
    try:
        _run(story, config_name, declared, tuple(toggles), about)
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", "0")) == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _run(
    story: Callable[[Any], int | None], config_name: str, declared: type[Any], known: tuple[str, ...], about: str
) -> None:
    sys.argv[1:] = _complete(sys.argv[1:], known)
    _declare(config_name, declared, about)
    arguments = get_args_parser().parse_args()
    if arguments.cfg and arguments.multirun:
        print("error: --cfg shows one configuration, -m runs several: leave one of them out", file=sys.stderr)
        sys.exit(USER_ERROR)
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info):
        sweeps = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
        _check_before_start(arguments.overrides, config_name, declared, known, sweeps=sweeps)

    def job(composed: DictConfig) -> None:
        status = _tell(story, config.check(composed, declared, known))
        if status and sweep_jobs.is_sweep_job(os.environ):
            sweep_jobs.end(status)
        if status:
            sys.exit(status)

    hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")(job)()


def compose(
    overrides: Sequence[str], *, config_name: str, declared: type[Any], toggles: Iterable[str] = (), about: str = ""
) -> Any:
    """The checked configuration that a command line stands for, without running anything (tests, notebooks).

    Raises:
        ConfigError: as :func:`vitaos.config.check`, or a group, choice or key that does not exist.
    """
    known = tuple(toggles)
    _declare(config_name, declared, about)
    words = _complete(overrides, known)
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="vitaos"):
            composed = hydra.compose(config_name=config_name, overrides=words)
    except (HydraException, OmegaConfBaseException) as error:
        raise config.ConfigError(_explain(error, declared)) from error
    finally:
        GlobalHydra.instance().clear()
    return config.check(composed, declared, known)


def _declare(config_name: str, declared: type[Any], about: str) -> None:
    """Make the dataclass known to Hydra: as the schema of a file, or of a configuration made here."""
    user_configs.register()
    store = ConfigStore.instance()
    has_file = _has_file(config_name)
    store.store(name=f"{config_name}_schema", node=declared, provider="vitaos")
    store.store(group="hydra/help", name="vitaos", node=_help(about, with_groups=has_file), provider="vitaos")
    if not has_file:
        overrides = [{"override hydra/help": "vitaos"}, {"override hydra/job_logging": "none"}]
        store.store(
            name=config_name,
            node={
                "defaults": [f"{config_name}_schema", "_self_", *overrides],
                "hydra": {
                    "job": {"name": config_name},
                    "run": {"dir": "."},
                    "sweep": {"dir": "runs/.hydra", "subdir": "."},
                    "output_subdir": None,
                },
            },
            provider="vitaos",
        )


def _help(about: str, *, with_groups: bool) -> dict[str, str]:
    groups = "Groups (group=choice)\n\n$APP_CONFIG_GROUPS\n" if with_groups else ""
    return {
        "app_name": Path(sys.argv[0]).name,
        "header": about or "vitaos: deep Vision Transformers that do not oversmooth",
        "footer": "Every key can be set as key=value; --cfg job prints the result; -m key=a,b runs each.",
        "template": f"${{hydra.help.header}}\n\n{groups}Keys and their values\n\n$CONFIG\n${{hydra.help.footer}}\n",
    }


def _complete(words: Sequence[str], toggles: Sequence[str]) -> list[str]:
    """Say in full what may be said in short: ``model=NAME`` for a name of timm's (``model=timm model.name=NAME``),
    ``model=deit_s24_attnscale`` (``model=deit_s24 attnscale=true``), and ``model.keywords.KEY=VALUE`` for a keyword
    that has no default here (``++model.keywords.KEY=VALUE``)."""
    said: list[str] = []
    for word in words:
        key, _, name = word.partition("=")
        foreign = key == "model" and name and not set(name) & set(",${}[]") and not _has_file(f"model/{name}")
        ends = (toggle for toggle in toggles if foreign and name.endswith(f"_{toggle}"))
        switched = next((toggle for toggle in ends if _has_file(f"model/{name.removesuffix(f'_{toggle}')}")), None)
        if switched:
            said += [f"model={name.removesuffix(f'_{switched}')}", f"{switched}=true"]
        elif foreign and _is_timm_model(name):
            said += ["model=timm", f"model.name={name}"]
        elif key.startswith("model.keywords."):
            said.append(f"++{word}")
        else:
            said.append(word)
    return said


def _has_file(config_name: str) -> bool:
    return (CONFIGS / f"{config_name}.yaml").is_file()


def _is_timm_model(name: str) -> bool:
    import timm  # noqa: PLC0415  # slow to import, and needed for a foreign name alone

    return bool(timm.is_model(name))


def _check_before_start(
    overrides: list[str], config_name: str, declared: type[Any], toggles: tuple[str, ...], *, sweeps: bool
) -> None:
    try:
        if not sweeps:
            _refuse_several_values(overrides)
        for words in _jobs(overrides):
            compose(words, config_name=config_name, declared=declared, toggles=toggles)
    except (config.ConfigError, HydraException) as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {_with_hint(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _with_hint(error: Exception) -> str:
    if not isinstance(error, OverrideParseException):
        return str(error)
    first = str(error).splitlines()[0]
    return f"{first}; a value with brackets, braces, commas or = needs quotes of its own: \"key='value'\""


def _refuse_several_values(overrides: list[str]) -> None:
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            raise config.ConfigError(f"{override.input_line}: several values are a sweep; add -m to run each of them")


def _jobs(overrides: list[str]) -> Iterator[list[str]]:
    """The command line of each job: sweeps (``key=a,b``) multiplied out as Hydra's basic sweeper does."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices: list[list[str]] = []
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    return (list(words) for words in itertools.product(*choices))


def _explain(error: Exception, declared: type[Any]) -> str:
    """Hydra's message without its advice on Hydra, with the valid keys where a key is unknown."""
    text = str(error)
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key = str(cause.full_key)
        if "not in" in str(cause.msg):
            *path, leaf = key.split(".")
            return f"{key}: unknown key{config.suggest(leaf, config.keys_at(declared, path))}"
        return f"{key}: {str(cause.msg).splitlines()[0]}"
    return text.split("\nConfig search path", maxsplit=1)[0].strip()


def _tell(story: Callable[[Any], int | None], checked: Any) -> int | None:
    """Run the story; a ``ValueError`` is addressed to the user and becomes a message, anything else keeps its trace."""
    try:
        return story(checked)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        rank = os.environ.get("RANK")
        print(f"error{f' (rank {rank})' if rank else ''}: {error}", file=sys.stderr)
        print("(HYDRA_FULL_ERROR=1 shows where it was raised)", file=sys.stderr)
        return USER_ERROR
