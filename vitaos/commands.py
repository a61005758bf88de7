"""Command lines that Hydra does not read: the name of a command before its keys, and keys without a configuration."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from vitaos.suggest import did_you_mean
from vitaos.version import describe_version

_USER_ERROR: Final = 2


def take_command(commands: Mapping[str, str], about: str | None) -> str:
    """Take the command's name off ``sys.argv`` and give what it stands for.

    Args:
        commands: name -> what the caller runs for it.
        about: the help, printed where the first word asks for it or there is none; the process then ends with 0, as
            after ``--version``, and with 2 where the word is no command.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help", "help"}:
        print(about)
        sys.exit(0)
    if name in {"--version", "version"}:
        print(describe_version())
        sys.exit(0)
    if name not in commands:
        _refuse(name, commands)
    del sys.argv[1]
    return commands[name]


def read_keys(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """``key=value`` arguments as a mapping.

    Raises:
        ValueError: a key that is not `known`, or one without a value.
    """
    keys = dict(argument.partition("=")[::2] for argument in arguments)
    for key, value in keys.items():
        if key not in known or not value:
            raise ValueError(f"{key}: the keys are {', '.join(f'{name}=...' for name in known)}")
    return keys


def _refuse(name: str, commands: Mapping[str, str]) -> NoReturn:
    hint = did_you_mean(name, commands)
    print(f"error: there is no command {name!r}{hint} Commands: {', '.join(commands)}", file=sys.stderr)
    sys.exit(_USER_ERROR)
