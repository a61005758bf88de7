"""The one door through which every checkpoint file is read: nothing in it is ever run; damage is not taken for code.

Four guards stand in a row:

1. Integrity. Files written by vitaos end in a trailer with a SHA-256 of all that precedes it, after the end of the
   zip archive, where other readers (``torch.load``, ``unzip``) do not look. Zip archives without one are held against
   their own CRC-32 (``torch.load`` does not check it: a flipped bit in a weight would pass unnoticed).
2. ``torch.load(weights_only=True)``: tensors and plain containers only. ``argparse.Namespace`` is let in because the
   files of DeiT, CaiT and the release carry their arguments; it has no behavior of its own. A few other things that
   training scripts save beside the weights become plain values (``stand_ins.py``).
3. Tensors have values: those of the meta device, sparse or quantized ones are refused by their key.
4. Errors name the file, what is wrong with it, and what happened (nothing was run).
"""

import argparse
import hashlib
import os
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file as load_safetensors

from vitaos.checkpoint.stand_ins import STAND_INS

_TRAILER_MAGIC: Final = b"\nvitaos-sha256\n"
_DIGEST_BYTES: Final = 32
TRAILER_BYTES: Final = len(_TRAILER_MAGIC) + _DIGEST_BYTES
_CHUNK_BYTES: Final = 1 << 22
_ZIP_START: Final = b"PK\x03\x04"
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_BYTES: Final = 22

# How the restricted unpickler reports something that it will not do; any other of its messages means a damaged stream.
_CODE_PATTERN: Final = re.compile(
    r"Unsupported global|unsupported GLOBAL|Unsupported class|Unsupported operand|Trying to call reduce|"
    r"Can only (?:create|build)|persistent_load|persistent id|not initialized by BUILD"
)
_GLOBAL_PATTERN: Final = re.compile(r"GLOBAL ([\w.]+)")


def trailer(digest: bytes) -> bytes:
    """The bytes that close a file whose earlier bytes have the SHA-256 ``digest`` (32 bytes)."""
    assert len(digest) == _DIGEST_BYTES
    return _TRAILER_MAGIC + digest


def has_trailer(path: Path) -> bool:
    """Whether the file ends in a vitaos trailer (not whether it is right: see :func:`check_integrity`)."""
    if path.stat().st_size < TRAILER_BYTES:
        return False
    with path.open("rb") as file:
        file.seek(-TRAILER_BYTES, os.SEEK_END)
        return file.read(len(_TRAILER_MAGIC)) == _TRAILER_MAGIC


def _digest_of(file: BinaryIO, num_bytes: int) -> bytes:
    digest = hashlib.sha256()
    while num_bytes > 0:
        chunk = file.read(min(_CHUNK_BYTES, num_bytes))
        if not chunk:
            break
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.digest()


def _check_trailer(path: Path) -> None:
    with path.open("rb") as file:
        expected = _digest_of(file, path.stat().st_size - TRAILER_BYTES)
        found = file.read(TRAILER_BYTES)[len(_TRAILER_MAGIC) :]
    if found != expected:
        raise ValueError(f"{path} is damaged: its checksum does not match its contents.")


def _check_zip(path: Path) -> None:
    """A zip archive without our trailer: its own CRCs must hold, and nothing may follow it (a torn trailer would)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ZIP_END_BYTES))
        ends_in_archive = file.read().startswith(_ZIP_END)
    try:
        with zipfile.ZipFile(path) as archive:
            if not ends_in_archive and not archive.comment:
                raise ValueError(f"{path} is damaged: unknown bytes follow the end of its archive.")
            broken = archive.testzip()
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(f"{path} is truncated or damaged: its archive cannot be read ({error}).") from error
    if broken is not None:
        raise ValueError(f"{path} is damaged: the checksum of its record {broken!r} does not match.")


def check_integrity(path: str | Path) -> None:
    """Raise ``ValueError`` naming the file when its bytes are not those that were written."""
    path = Path(path)
    if has_trailer(path):
        _check_trailer(path)
        return
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if start == _ZIP_START:
        _check_zip(path)


def _refusal(path: Path, error: Exception) -> ValueError:
    text = str(error)
    if not _CODE_PATTERN.search(text):
        return ValueError(
            f"{path} is truncated or damaged, or is not a checkpoint: {type(error).__name__}: {text[:200]}"
        )
    with path.open("rb") as file:
        begins_as_pickle = file.read(1) in (b"\x80", _ZIP_START[:1])
    if not begins_as_pickle and "perand" in text:
        return ValueError(
            f"{path} is not a checkpoint, or one that contains code: refused, nothing was run ({text[:200]})"
        )
    named = _GLOBAL_PATTERN.search(text)
    what = f" (it asks for {named.group(1)})" if named else ""
    return ValueError(
        f"{path} contains code{what}: refused, nothing was run. Only tensors and plain values are read; if you trust "
        "the file, load it yourself, keep its state dict alone, and save that with torch.save or safetensors."
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _load_pickle(path: Path, *, mmap: bool) -> Any:
    if not zipfile.is_zipfile(path) and tarfile.is_tarfile(path):
        raise ValueError(
            f"{path} is a tar archive (a checkpoint of PyTorch 0.1): refused, nothing was run, since that format "
            "cannot be read without running what it holds. Save it anew with a current torch.save."
        )
    if _is_torchscript(path):
        raise ValueError(
            f"{path} contains code (it is a TorchScript archive): refused, nothing was run. Save the state dict of the "
            "model it was made from instead."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *STAND_INS]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        MemoryError,
        OverflowError,
        RecursionError,
    ) as error:
        raise _refusal(path, error) from error
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError, NameError) as error:
        # What a damaged stream provokes inside the unpickler is of any kind; here it can only mean damage.
        raise _refusal(path, error) from error


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return dict(load_safetensors(path, device="cpu"))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def _begins_as_safetensors(path: Path) -> bool:
    """Whether a file of another name holds safetensors: the length of a JSON header, and its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _load_arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an ``.npz``; pickled objects within it are refused by numpy."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError, TypeError, ValueError) as error:
        reason = str(error)[:200]
        raise ValueError(f"{path} is truncated or damaged, or holds something other than arrays: {reason}") from error


def _check_tensors(path: Path, content: Any) -> None:
    """Refuse tensors without values of their own: shapes alone (meta), sparse, quantized or nested ones."""
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            if value.is_meta or value.layout != torch.strided or value.is_quantized or value.is_nested:
                kind = "meta" if value.is_meta else "quantized" if value.is_quantized else str(value.layout)
                raise ValueError(
                    f"{path}: {key or 'its content'} is a {kind} tensor, expected one that holds its values."
                )
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # a pickle can hold itself
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in items]


def load_file(path: str | Path, *, check: bool = True, mmap: bool = False) -> Any:
    """Read a checkpoint (``.pt``, ``.pth``, ``.safetensors``, ``.npz``, any name): CPU tensors, plain containers.

    Args:
        path: the file. Safetensors are known by name or content; the name's ending alone tells numpy's archives
            from PyTorch's format.
        check: read the whole file once to hold it against its checksum; for a file that was checked already, not.
        mmap: let tensors lie in the mapped file, one copy for all processes of a machine; they are gone with the
            file's disk, so copy them soon. Files that cannot be mapped are read.

    Raises:
        ValueError: the file is missing, unreadable, truncated, damaged, or contains code. The message names it; nothing
            in it has been run.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint file.")
    if not path.exists():
        raise ValueError(f"There is no checkpoint file {path}.")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is truncated or damaged: it is empty.")
        if path.suffix == ".safetensors" or _begins_as_safetensors(path):
            return _load_safetensors(path)
        if check:
            check_integrity(path)
        if path.suffix == ".npz":
            return _load_arrays(path)
        content = _load_pickle(path, mmap=mmap and zipfile.is_zipfile(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    _check_tensors(path, content)
    return content
