"""CUDA, the driver, the GPUs and NCCL, as torch sees them."""

import ctypes
import shutil
import subprocess

import torch

from vitaos.doctor.finding import Finding, failed, ok, warning

_BUSY_SHARE = 0.1
_BF16_CAPABILITY = 8


def cuda() -> list[Finding]:
    """torch's CUDA, the driver below it, and whether the two work together."""
    driver, listed = _driver()
    built = torch.version.cuda
    if torch.cuda.is_available():
        detail = f"{driver or 'its version is unknown without nvidia-smi'}, knows CUDA {_known_cuda()}"
        return [ok("CUDA", f"torch is built for {built}"), ok("driver", detail)]
    if not listed:
        return [warning("CUDA", "no GPU here", "nothing, if training is to run elsewhere; device=cpu works meanwhile")]
    if built is None:
        return [failed("CUDA", f"{listed} GPU(s), but this torch is built without CUDA", "install torch's CUDA build")]
    return [
        failed(
            "CUDA",
            f"nvidia-smi lists {listed} GPU(s), torch (built for CUDA {built}) sees none; driver {driver}",
            f"update the driver to one that knows CUDA {built}, install a torch built for an older CUDA, or look at "
            "CUDA_VISIBLE_DEVICES",
        )
    ]


def _driver() -> tuple[str, int]:
    """(version of the driver, GPUs that it lists); ("", 0) where there is none."""
    if shutil.which("nvidia-smi") is None:
        return "", 0
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", 0
    lines = done.stdout.split()
    return (lines[0] if lines else ""), len(lines)


def _known_cuda() -> str:
    """The newest CUDA that the driver knows."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return "of an unknown version"
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def gpus() -> list[Finding]:
    """Each GPU: what it is, whether this torch has code for it, what else uses it."""
    return [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def _gpu(index: int) -> Finding:
    what = f"GPU {index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        torch.zeros(8, device=f"cuda:{index}").add_(1).tolist()
    except RuntimeError as error:  # a mode of exclusive use, a broken card, a driver of another version
        return failed(what, str(error).splitlines()[0], "look at nvidia-smi, and end what holds this GPU")
    detail = f"{properties.name}, {total / 2**30:.0f} GiB, compute capability {properties.major}.{properties.minor}"
    codes = torch.cuda.get_arch_list()
    if not any(_runs(code, properties.major, properties.minor) for code in codes):
        return failed(
            what, f"{detail}; this torch has code for {', '.join(codes)}", "install a torch built for this GPU"
        )
    if total - free > _BUSY_SHARE * total:
        used = (total - free) / 2**30
        return warning(what, f"{detail}; {used:.0f} GiB are in use", "end the other program, or choose another GPU")
    if properties.major < _BF16_CAPABILITY:
        return warning(what, f"{detail}: no bfloat16", "train with precision=fp16")
    return ok(what, detail)


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether code for an architecture ("sm_90", "compute_90") runs on a capability."""
    kind, _, number = code.partition("_")
    digits = "".join(character for character in number if character.isdigit())
    if not digits:
        return False
    of_major, of_minor = int(digits[:-1]), int(digits[-1])
    if kind == "compute":  # compiled by the driver for anything as new or newer
        return (of_major, of_minor) <= (major, minor)
    return of_major == major and of_minor <= minor


def nccl() -> list[Finding]:
    """What several GPUs talk through."""
    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        found = "this torch is built without NCCL"
        if count > 1:
            return [failed("NCCL", f"{found}, so {count} GPUs cannot work together", "install torch's CUDA build")]
        return [warning("NCCL", found, "nothing for one GPU; several need torch's CUDA build")]
    return [ok("NCCL", ".".join(map(str, torch.cuda.nccl.version())))]
