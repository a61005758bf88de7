"""A user's own configuration files: ``--config-dir DIR`` and ``configs/`` in the current folder come before vitaos'."""

import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vitaos.root import CONFIGS

_FLAG = "--config-dir"


def user_folders() -> list[Path]:
    """The folders to search before vitaos' own, in their order."""
    given = [after for word, after in zip(sys.argv, sys.argv[1:], strict=False) if word in {_FLAG, "-cd"}]
    given += [word.partition("=")[2] for word in sys.argv if word.startswith(f"{_FLAG}=")]
    folders = [Path(folder).resolve() for folder in [*given, "configs"]]
    return [folder for folder in folders if folder.is_dir() and folder != CONFIGS]


class UserConfigs(SearchPathPlugin):
    """Hydra's hook for the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the user's folders first."""
        for folder in reversed(user_folders()):
            search_path.prepend(provider="user", path=f"file://{folder}")


def register() -> None:
    """Make the hook known to Hydra, once."""
    if UserConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(UserConfigs)
