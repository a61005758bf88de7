"""The version of vitaos, and of what its results depend on."""

import platform
from importlib import metadata
from typing import Final

__version__: Final = "0.1.0"


def describe_version() -> str:
    """One line for ``--version``, without importing any of what it names."""
    others = ", ".join(f"{name} {_installed(name)}" for name in ("torch", "timm"))
    return f"vitaos {__version__} ({others}, Python {platform.python_version()})"


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
