"""Builds the null GPU, a library that stands in for CUDA, for the torch of this Python: seconds, with gcc and nm.

The parts in ``device/`` define what must answer sensibly. Every other function of CUDA that torch or Triton ask for
becomes one that returns success and does nothing.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).resolve().parent / "device"
ASKING: Final = ("libtorch_cuda", "libc10_cuda", "libtorch_python", "libtorch_cuda_linalg", "libcaffe2_nvrtc")
OF_CUDA: Final = re.compile(r"(cuda[A-Z]|__cuda|cublas|cu[A-Z])\w*")
# The wheel of the CUDA runtime leaves out this header of the compiler; its macros mean nothing to C.
HOST_DEFINES: Final = "".join(
    f"#define {macro}\n"
    for macro in (
        "__host__", "__device__", "__device_builtin__", "__device_builtin_texture_type__",
        "__device_builtin_surface_type__", "__cudart_builtin__", "__inline_hint__", "__CUDA_HOSTDEVICE__", "CUDARTAPI",
        "CUDARTAPI_CDECL",
        "__align__(n) __attribute__((aligned(n)))", "__builtin_align__(n) __attribute__((aligned(n)))",
    )
)  # fmt: skip


class UnavailableError(RuntimeError):
    """The null GPU cannot be built here; the text says why."""


@functools.cache
def library() -> Path:
    """Path of the built library, built if it is not there yet (kept in the temporary folder, one for each torch).

    Raises:
        UnavailableError: torch is not a CUDA build, or there is no compiler.
    """
    packages = _site_packages()
    folder = Path(tempfile.gettempdir()) / f"vitaos-null-gpu-{os.getuid()}-{_key(packages)}"
    if not (folder / "libnullgpu.so").exists():
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _build(packages, building)
            building.rename(folder)
        except OSError:  # another process was first
            if not (folder / "libnullgpu.so").exists():
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder / "libnullgpu.so"


def _site_packages() -> Path:
    """The folder of torch, found without importing it."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise UnavailableError("torch is not installed")
    packages = Path(spec.origin).parent.parent
    if not (packages / "torch" / "lib" / "libtorch_cuda.so").exists():
        raise UnavailableError("this torch is not a CUDA build")
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed")
    return packages


def _key(packages: Path) -> str:
    """Changes with the sources and with torch."""
    text = metadata.version("torch") + str(packages)
    for path in [Path(__file__), *sorted(SOURCES.iterdir())]:
        text += path.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cuda_version(packages: Path) -> int:
    """As CUDA counts: 13020 for 13.2."""
    text = (packages / "torch" / "version.py").read_text()
    found = re.search(r"cuda: \S+ = '(\d+)\.(\d+)'", text) or re.search(r"cuda = '(\d+)\.(\d+)'", text)
    if found is None:
        raise UnavailableError("this torch does not say which CUDA it was built for")
    return 1000 * int(found[1]) + 10 * int(found[2])


def _headers(packages: Path) -> Path:
    for folder in (*sorted(packages.glob("nvidia/cu1*/include")), packages / "nvidia" / "cuda_runtime" / "include"):
        if (folder / "driver_types.h").exists():
            return folder
    raise UnavailableError("the headers of the CUDA runtime (an nvidia package that torch brings) are not installed")


def _build(packages: Path, out: Path) -> None:
    (out / "crt").mkdir()
    (out / "crt" / "host_defines.h").write_text(HOST_DEFINES)
    compile_c = ["gcc", "-O1", "-w", "-fPIC", "-c", f"-DCUDA_VERSION_SHOWN={_cuda_version(packages)}"]
    includes = [f"-I{out}", f"-I{SOURCES}", f"-I{_headers(packages)}"]
    objects = []
    for source in sorted(SOURCES.glob("*.c")):
        objects.append(str(out / f"{source.stem}.o"))
        _run(*compile_c, *includes, str(source), "-o", objects[-1])
    defined = {line.split()[2] for line in _run("nm", *objects).splitlines() if " T " in line}
    ignored = out / "ignored.c"
    ignored.write_text("".join(f"int {name}() {{ return 0; }}\n" for name in sorted(_asked_for(packages) - defined)))
    _run("gcc", "-O1", "-w", "-fPIC", "-c", str(ignored), "-o", str(out / "ignored.o"))
    library = str(out / "libnullgpu.so")
    _run(
        "gcc",
        "-shared",
        "-Wl,-soname,libcuda.so.1",
        *objects,
        str(out / "ignored.o"),
        "-o",
        library,
        "-lpthread",
        "-ldl",
    )
    for name in ("libcuda.so.1", "libcuda.so"):  # what Triton looks for
        (out / name).symlink_to("libnullgpu.so")


def _asked_for(packages: Path) -> set[str]:
    """The functions of CUDA that torch's libraries and Triton's driver call."""
    names = set()
    for name in ASKING:
        path = packages / "torch" / "lib" / f"{name}.so"
        if path.exists():
            lines = _run("nm", "-D", "--undefined-only", str(path)).splitlines()
            names |= {line.split()[-1].partition("@")[0] for line in lines}
    driver = packages / "triton" / "backends" / "nvidia" / "driver.c"
    if driver.exists():
        words = set(re.findall(r"\bcu[A-Z]\w*", driver.read_text()))
        names |= {word for word in words if not word.endswith("_t")}
    return {name for name in names if OF_CUDA.fullmatch(name)}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout
