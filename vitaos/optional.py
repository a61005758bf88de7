"""Packages that only some features need: asked for by name before anything starts, with how to install them."""

import importlib.util


def require(package: str, wanted_by: str, *, extra: str) -> None:
    """Refuse a feature whose package is not installed.

    Args:
        package: name of the module.
        wanted_by: what asked for it, as on the command line: ``calibration=true``.
        extra: the extra of vitaos that installs it.

    Raises:
        ValueError: it is not there; the message says how to get it.
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent package that is missing, or a module without a specification
        found = False
    if not found:
        raise ValueError(
            f"{wanted_by} needs the package {package.partition('.')[0]}, which is not installed: "
            f"pip install 'vitaos[{extra}]' (in a clone: pip install -e '.[{extra}]')"
        )
