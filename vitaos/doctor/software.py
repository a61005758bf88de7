"""Python and the packages: present, new enough, and their compiled parts loadable."""

import importlib
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Final

from vitaos.doctor.finding import Finding, failed, ok, warning

_OLDEST_PYTHON: Final = (3, 10)
_NEWEST_PYTHON: Final = (3, 12)
_NEEDED: Final = {
    "torch": (2, 11),
    "torchvision": (0, 26),
    "timm": (1, 0, 31),
    "hydra-core": (1, 3, 2),
    "numpy": (1, 26),
}
_SETUP: Final = "run scripts/setup.sh, or pip install --constraint constraints.txt ."
_FFCV_CURE: Final = (
    "apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++, then scripts/setup.sh; without FFCV use "
    "data=imagefolder"
)


def python() -> list[Finding]:
    """The interpreter."""
    version = sys.version_info[:2]
    detail = f"{sys.version.split()[0]} at {sys.executable}"
    if _OLDEST_PYTHON <= version <= _NEWEST_PYTHON:
        return [ok("Python", detail)]
    return [failed("Python", detail, "use Python 3.10 to 3.12: VITAOS_PYTHON=/path/to/python3.11 scripts/setup.sh")]


def packages() -> list[Finding]:
    """What every run imports."""
    return [_package(name, oldest) for name, oldest in _NEEDED.items()]


def _package(name: str, oldest: tuple[int, ...]) -> Finding:
    wanted = ".".join(map(str, oldest))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return failed(name, "not installed", _SETUP)
    if _numbers(version) < oldest:
        return failed(name, f"{version}, older than {wanted}", _SETUP)
    return ok(name, version)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+", maxsplit=1)[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)


def ffcv() -> list[Finding]:
    """FFCV and the libraries that it was built against."""
    if util.find_spec("ffcv") is None:
        return [warning("FFCV", "not installed, so data=imagenet_ffcv and data=ffcv do not work", _FFCV_CURE)]
    compiled = util.find_spec("ffcv._libffcv")
    if compiled is None or compiled.origin is None:
        return [failed("FFCV", "its compiled part (ffcv._libffcv) is missing", _FFCV_CURE)]
    missing = _missing_libraries(Path(compiled.origin))
    if missing:
        return [failed("FFCV", f"its libraries are not found: {', '.join(missing)}", _FFCV_CURE)]
    # In a process of its own: a library of another build may end the process that loads it.
    done = subprocess.run([sys.executable, "-c", "import ffcv"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the import ended with status {done.returncode}"]
        return [failed("FFCV", f"does not import: {lines[-1]}", _FFCV_CURE)]
    return [ok("FFCV", f"{metadata.version('ffcv')}, with OpenCV and turbojpeg")]


def _missing_libraries(library: Path) -> list[str]:
    if shutil.which("ldd") is None:
        return []
    done = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
    return [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]


def apex() -> list[Finding]:
    """NVIDIA's fused optimizers, which nothing needs but optimizer=apex_adam and apex_lamb."""
    if util.find_spec("apex") is None:
        return [ok("apex", "not installed; only optimizer=apex_adam and apex_lamb need it")]
    try:
        importlib.import_module("amp_C")
    except ImportError as error:
        return [
            warning(
                "apex",
                f"installed without its CUDA extensions ({error})",
                "build it with APEX_CPP_EXT=1 APEX_CUDA_EXT=1 against the CUDA of this torch, or use optimizer=adamw",
            )
        ]
    return [ok("apex", "installed with its CUDA extensions")]


def compiler() -> list[Finding]:
    """What compiled models need: Triton's launchers are C."""
    if any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return [ok("C compiler", "found, so models can be compiled")]
    return [
        warning("C compiler", "none found: compile=auto will not compile", "apt-get install gcc, or module load gcc")
    ]
