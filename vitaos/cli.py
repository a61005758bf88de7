"""From a command line to a checked configuration and the main function of a command.

Hydra composes and sweeps. What is added: the whole command line (each job of a sweep included) is checked before the
first job starts, and whatever the user can mend ends with one clear message and exit status 2 instead of a stack trace.
"""

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vitaos import config, config_check, overrides, user_configs
from vitaos.command_help import help_text
from vitaos.root import CONFIGS
from vitaos.runtime import garbage
from vitaos.runtime import submitit as sweep_jobs
from vitaos.version import describe_version

USER_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT
_MERGING = "Error merging override "
_IN_A_FILE = re.compile(r"In '([^']+)': \w+ raised while composing config:\n(.*)\n\s*full_key: (\S+)")
_OF_PATHS = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
}
"""What the operating system answers to a path that a user gave wrongly."""
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT}
"""What it answers where there is no room; often without a path."""
_FOR_HYDRA = ("hydra_help", "shell_completion", "info")
"""Options of the command line that Hydra answers, whatever the configuration is."""


@dataclass(frozen=True)
class Command:
    """A command: which configuration it takes, and what ``--help`` says of it.

    :meth:`check` needs none of what a command runs on, so a command's file calls it before it imports that: ``--help``
    and a mistake are answered in a moment. Between it and :meth:`run` no garbage is collected.

    Attributes:
        config_name: primary file under ``configs/``; without such a file the keys of `schema` are the whole
            configuration.
        schema: the dataclass of the configuration.
        about: text for ``--help``.
        leaves: nothing needs to be closed when its main function has returned: the process ends a second earlier.
    """

    config_name: str
    schema: type[Any]
    about: str | None = None
    leaves: bool = False

    def check(self) -> None:
        """Answer ``--help`` and ``--version``; check the whole command line, each job of a sweep included.

        Raises:
            SystemExit: status 0 after an answer, 2 for a command line that cannot be run.
        """
        if "--version" in sys.argv[1:]:
            print(describe_version())
            sys.exit(0)
        _register_schema(self.config_name, self.schema)
        sys.argv[1:] = overrides.expand(overrides.before_options(sys.argv[1:]), self.config_name, self.schema)
        arguments = get_args_parser().parse_args()
        try:
            if arguments.help:
                print(help_text(self.about or "", self.config_name, self.schema, self._compose(arguments.overrides)))
                sys.exit(0)
            if not any(getattr(arguments, option) for option in _FOR_HYDRA):
                self._check_jobs(arguments)
        except (config.ConfigError, HydraException) as error:
            if int(os.environ.get("RANK", "0")) == 0:
                print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR)
        garbage.pause()

    def run(self, main_fn: Callable[[Any], int | None]) -> NoReturn:
        """Run the command, whose command line has been checked, and end the process with its exit status.

        Args:
            main_fn: takes the checked configuration and returns an exit status, None for 0.

        Raises:
            SystemExit: always; status 2 for what the user can mend, 130 after Ctrl-C, that of `main_fn` otherwise.
        """

        def job(composed: DictConfig) -> None:
            status = run_and_report(main_fn, lambda: config_check.check(composed, self.schema))
            if status and sweep_jobs.is_sweep_job(os.environ):
                sweep_jobs.end(status)
            if status:
                sys.exit(status)

        garbage.resume()
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes need not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            hydra.main(config_path=str(CONFIGS), config_name=self.config_name, version_base="1.3")(job)()
        except KeyboardInterrupt:
            if int(os.environ.get("RANK", "0")) == 0:
                print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if self.leaves:
            garbage.leave()
        sys.exit(0)

    def _check_jobs(self, arguments: Any) -> None:
        if arguments.cfg and arguments.multirun:
            raise config.ConfigError("--cfg shows one configuration, -m runs several: leave one of them out")
        words = arguments.overrides
        if arguments.multirun or "hydra.mode=MULTIRUN" in words:
            words = [*self._swept_in_files(words), *words]
        else:
            overrides.refuse_several_values(words)
        folders = [(job.out, job.name) for job in map(self._compose, overrides.jobs(words)) if _has_a_name(job)]
        shared = next((name for out, name in folders if folders.count((out, name)) > 1), None)
        if shared is not None:
            raise config.ConfigError(
                f"name={shared}: jobs of this sweep would share one run folder; leave name out, or let it differ, as "
                "'name=depth${depth}'"
            )

    def _swept_in_files(self, words: Sequence[str]) -> list[str]:
        """What ``hydra.sweeper.params`` of a configuration file sweeps over, as overrides."""
        first = next(overrides.jobs(words))
        composed = _compose_by_hydra(first, self.config_name, self.schema, return_hydra_config=True)
        params = composed.hydra.sweeper.get("params") or {}
        return [f"{key}={values}" for key, values in params.items()]

    def _compose(self, words: Sequence[str]) -> Any:
        return _compose(words, self.config_name, self.schema)


def run(main_fn: Callable[[Any], int | None], *, config_name: str, schema: type[Any], about: str = "") -> NoReturn:
    """Check and run a command that imports little; see :class:`Command`.

    Raises:
        SystemExit: always.
    """
    command = Command(config_name, schema, about)
    command.check()
    command.run(main_fn)


def compose(words: Sequence[str], *, config_name: str, schema: type[Any]) -> Any:
    """The checked configuration that a command line stands for, without running anything (tests, notebooks).

    Raises:
        ConfigError: as :func:`vitaos.config_check.check`, or a group, choice or key that does not exist.
    """
    _register_schema(config_name, schema)
    return _compose(overrides.expand(words, config_name, schema), config_name, schema)


def _has_a_name(composed: Any) -> bool:
    return isinstance(composed, config.TrainConfig) and bool(composed.name)


def _compose(words: Sequence[str], config_name: str, schema: type[Any]) -> Any:
    composed = _compose_by_hydra(words, config_name, schema)
    return config_check.check(composed, schema, given={word.partition("=")[0].lstrip("+") for word in words})


def _compose_by_hydra(
    words: Sequence[str], config_name: str, schema: type[Any], *, return_hydra_config: bool = False
) -> DictConfig:
    overrides.check(words, config_name, schema)
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3", job_name="vitaos"):
            return hydra.compose(
                config_name=config_name, overrides=list(words), return_hydra_config=return_hydra_config
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise config.ConfigError(_explain(error, schema)) from error
    except YAMLError as error:
        raise config.ConfigError(f"a configuration file is no YAML: {' '.join(str(error).split())}") from error
    except AssertionError as error:  # OmegaConf's answer to a key below a group that holds nothing
        explanation = _explain_empty_group(words, config_name)
        if explanation is None:
            raise
        raise config.ConfigError(explanation) from error
    finally:
        GlobalHydra.instance().clear()


def _register_schema(config_name: str, schema: type[Any]) -> None:
    """Make the dataclass known to Hydra: as the schema of a file, or of a configuration made here."""
    user_configs.register()
    store = ConfigStore.instance()
    store.store(name=f"{config_name}_schema", node=schema, provider="vitaos")
    if not (CONFIGS / f"{config_name}.yaml").is_file():
        store.store(
            name=config_name,
            node={
                "defaults": [f"{config_name}_schema", "_self_", {"override hydra/job_logging": "none"}],
                "hydra": {
                    "job": {"name": config_name},
                    "run": {"dir": "."},
                    "sweep": {"dir": "runs/.hydra", "subdir": "."},
                    "output_subdir": None,
                },
            },
            provider="vitaos",
        )


def _explain(error: Exception, schema: type[Any]) -> str:
    """Hydra's message without its advice on Hydra, with the valid keys where a key is unknown."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        key, reason = str(cause.full_key), str(cause.msg).splitlines()[0]
        return config_check.explain_known(key, reason, schema) or f"{key}: {reason}"
    message = str(error).split("\nConfig search path", maxsplit=1)[0].strip()
    if (found := _IN_A_FILE.match(message)) and (known := config_check.explain_known(found[3], found[2], schema)):
        return f"{found[1]}.yaml: {known}"
    if message.startswith(_MERGING) and cause is not None:
        # The reason stands further down the chain, with a place inside the value where the key should be.
        while cause is not None and not isinstance(cause, OmegaConfBaseException):
            cause = cause.__cause__
        inner = "expected a list of lists, as [[A,B],[C,D]]" if "not a ListConfig" in str(cause) else str(cause)
        return f"{message.removeprefix(_MERGING)}: {inner.splitlines()[0]}"
    return message


def _explain_empty_group(words: Sequence[str], config_name: str) -> str | None:
    """Which key stands below a group that nothing has chosen, as ``data.root=DIR`` without ``data=`` in eval.py."""
    keys = [override.partition("=")[0] for override in words]
    for key in keys:
        group, dot, _ = key.partition(".")
        if dot and (CONFIGS / group).is_dir() and group not in keys:
            return f"{key}: {config_name}.yaml chooses no {group}; choose one before its keys: {group}=NAME {key}=..."
    return None


def run_and_report(main_fn: Callable[[Any], int | None], checked: Callable[[], Any]) -> int | None:
    """Check a configuration and run the main function with it.

    A ``ValueError`` is addressed to the user and becomes a message, as does what the operating system says of a path,
    with the key that names the path; the rest stay traces.

    Returns:
        The exit status.
    """
    chosen: Any = None
    try:
        chosen = checked()
        return main_fn(chosen)
    except (ValueError, OSError) as error:
        of_path = isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename is not None
        of_disk = isinstance(error, OSError) and error.errno in _OF_DISKS
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not (of_path or of_disk or isinstance(error, ValueError)):
            raise
        message = str(error)
        if isinstance(error, OSError):
            where = (
                "" if error.filename is None else f"{_key_naming(str(error.filename), chosen, '')}{error.filename}: "
            )
            message = f"{where}{error.strerror}"
    rank = os.environ.get("RANK")
    print(f"error{f' (rank {rank})' if rank else ''}: {message}", file=sys.stderr)
    print("(HYDRA_FULL_ERROR=1 shows where it was raised)", file=sys.stderr)
    return USER_ERROR


def _key_naming(path: str, section: Any, prefix: str) -> str:
    """``data.root=DIR: `` for the key whose path `path` is or lies below; nothing where there is none."""
    for key in fields(section) if is_dataclass(section) else ():
        value = getattr(section, key.name)
        if is_dataclass(value) and (found := _key_naming(path, value, f"{prefix}{key.name}.")):
            return found
        if key.metadata.get("is_path") and isinstance(value, str) and f"{path}/".startswith(f"{value.rstrip('/')}/"):
            return f"{prefix}{key.name}={value}: "
    return ""
