"""From a command line to a checked configuration and the main function of a command.

Hydra composes and sweeps. What is added: the whole command line (each job of a sweep included) is checked before the
first job starts, and whatever the user can mend ends with one clear message and exit status 2 instead of a stack trace.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
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

from vitaos import config, config_check, user_configs
from vitaos.root import ROOT
from vitaos.runtime import submitit as sweep_jobs

CONFIGS = ROOT / "configs"
USER_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT


def run(
    main_fn: Callable[[Any], int | None],
    *,
    config_name: str,
    schema: type[Any],
    about: str = "",
) -> NoReturn:
    """Run a command and end the process with its exit status.

    Args:
        main_fn: takes the checked configuration and returns an exit status, None for 0.
        config_name: primary file under ``configs/``; without such a file the keys of `schema` are the whole
            configuration.
        schema: the dataclass of the configuration.
        about: text for ``--help``.

    Raises:
        SystemExit: always; status 2 for what the user can mend, 130 after Ctrl-C, that of `main_fn` otherwise.
    """
    try:
        _run(main_fn, config_name, schema, about)
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", "0")) == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _run(main_fn: Callable[[Any], int | None], config_name: str, schema: type[Any], about: str) -> None:
    sys.argv[1:] = expand_shorthand(sys.argv[1:], schema)
    _register_schema(config_name, schema, about)
    arguments = get_args_parser().parse_args()
    if arguments.cfg and arguments.multirun:
        print("error: --cfg shows one configuration, -m runs several: leave one of them out", file=sys.stderr)
        sys.exit(USER_ERROR)
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info):
        sweeps = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
        _check_before_start(arguments.overrides, config_name, schema, sweeps=sweeps)

    def job(composed: DictConfig) -> None:
        status = _run_and_report(main_fn, config_check.check(composed, schema))
        if status and sweep_jobs.is_sweep_job(os.environ):
            sweep_jobs.end(status)
        if status:
            sys.exit(status)

    hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")(job)()


def compose(overrides: Sequence[str], *, config_name: str, schema: type[Any]) -> Any:
    """The checked configuration that a command line stands for, without running anything (tests, notebooks).

    Raises:
        ConfigError: as :func:`vitaos.config_check.check`, or a group, choice or key that does not exist.
    """
    _register_schema(config_name, schema)
    return _compose(expand_shorthand(overrides, schema), config_name, schema)


def _compose(overrides: Sequence[str], config_name: str, schema: type[Any]) -> Any:
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="vitaos"):
            composed = hydra.compose(config_name=config_name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise config.ConfigError(_explain(error, schema)) from error
    except AssertionError as error:  # OmegaConf's answer to a key below a group that holds nothing
        explanation = _explain_empty_group(overrides, config_name)
        if explanation is None:
            raise
        raise config.ConfigError(explanation) from error
    finally:
        GlobalHydra.instance().clear()
    return config_check.check(composed, schema)


def _register_schema(config_name: str, schema: type[Any], about: str = "") -> None:
    """Make the dataclass known to Hydra: as the schema of a file, or of a configuration made here."""
    user_configs.register()
    store = ConfigStore.instance()
    has_file = _has_file(config_name)
    store.store(name=f"{config_name}_schema", node=schema, provider="vitaos")
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


def expand_shorthand(overrides: Sequence[str], schema: type[Any]) -> list[str]:
    """Write short forms in full: ``model=NAME`` for a name of timm's (``model=timm model.name=NAME``),
    ``model=deit_s24_attnscale`` (``model=deit_s24 attnscale=true``), and ``model.keywords.KEY=VALUE`` for a keyword
    that has no default here (``++model.keywords.KEY=VALUE``)."""
    flags = config.technique_flags(schema)
    expanded: list[str] = []
    for override in overrides:
        key, _, name = override.partition("=")
        foreign = key == "model" and name and not set(name) & set(",${}[]") and not _has_file(f"model/{name}")
        ends = (flag for flag in flags if foreign and name.endswith(f"_{flag}"))
        technique = next((flag for flag in ends if _has_file(f"model/{name.removesuffix(f'_{flag}')}")), None)
        if technique:
            expanded += [f"model={name.removesuffix(f'_{technique}')}", f"{technique}=true"]
        elif foreign and _is_timm_model(name):
            expanded += ["model=timm", f"model.name={name}"]
        elif key.startswith("model.keywords."):
            expanded.append(f"++{override}")
        else:
            expanded.append(override)
    return expanded


def _has_file(config_name: str) -> bool:
    return (CONFIGS / f"{config_name}.yaml").is_file()


def _is_timm_model(name: str) -> bool:
    import timm  # noqa: PLC0415  # slow to import, and needed for a foreign name alone

    return bool(timm.is_model(name))


def _check_before_start(overrides: list[str], config_name: str, schema: type[Any], *, sweeps: bool) -> None:
    try:
        if not sweeps:
            _refuse_several_values(overrides)
        for job_overrides in _jobs(overrides):
            _compose(job_overrides, config_name, schema)
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
    return (list(job) for job in itertools.product(*choices))


def _explain(error: Exception, schema: type[Any]) -> str:
    """Hydra's message without its advice on Hydra, with the valid keys where a key is unknown."""
    text = str(error)
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key = str(cause.full_key)
        if "not in" in str(cause.msg):
            *path, leaf = key.split(".")
            return f"{key}: unknown key{config_check.suggest(leaf, config_check.keys_at(schema, path))}"
        return f"{key}: {str(cause.msg).splitlines()[0]}"
    return text.split("\nConfig search path", maxsplit=1)[0].strip()


def _explain_empty_group(overrides: Sequence[str], config_name: str) -> str | None:
    """Which key stands below a group that nothing has chosen, as ``data.root=DIR`` without ``data=`` in eval.py."""
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        group, dot, _ = key.partition(".")
        if dot and (CONFIGS / group).is_dir() and group not in keys:
            return f"{key}: {config_name}.yaml chooses no {group}; choose one before its keys: {group}=NAME {key}=..."
    return None


def _run_and_report(main_fn: Callable[[Any], int | None], checked: Any) -> int | None:
    """Run the main function; a ``ValueError`` is addressed to the user and becomes a message, the rest stay traces."""
    try:
        return main_fn(checked)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        rank = os.environ.get("RANK")
        print(f"error{f' (rank {rank})' if rank else ''}: {error}", file=sys.stderr)
        print("(HYDRA_FULL_ERROR=1 shows where it was raised)", file=sys.stderr)
        return USER_ERROR
