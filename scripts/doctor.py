"""What this machine has and lacks for training: ``python scripts/doctor.py [data.root=DIR] [out=DIR] [json=FILE]``.

Every line is ok, warning or failed, with the cure (``--help``).
"""

import sys


def command() -> int:
    """The command line; works, and says so, where the packages themselves are missing."""
    try:
        from vitaos.doctor.command import main  # noqa: PLC0415  # what it imports may be what is missing

        return main(sys.argv[1:])
    except ImportError as error:
        print(f"failed    packages: {error}\n{'':10}-> run scripts/setup.sh, and start with .venv/bin/python")
        return 1


if __name__ == "__main__":
    sys.exit(command())
