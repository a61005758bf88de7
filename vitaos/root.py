"""Where the commands and their configuration files lie: the clone, or inside the installed package.

The wheel maps ``train.py``, ``eval.py``, ``scripts/`` and ``configs/`` into ``vitaos/entry/`` (pyproject.toml), so that
each is written once.
"""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent

ROOT: Final = _PACKAGE / "entry" if (_PACKAGE / "entry" / "configs").is_dir() else _PACKAGE.parent
"""The folder that holds ``train.py`` and ``configs/``."""

CONFIGS: Final = ROOT / "configs"
"""The configuration files of vitaos itself."""
