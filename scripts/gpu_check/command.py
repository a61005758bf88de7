"""The check of a GPU: ``scripts/check_gpu.sh [out=runs/gpu-check] [device=auto] [data.root=DIR] [parts=doctor,step]``.

Runs every part as a process of its own (or those that parts= names), prints what each found, and at the end a table;
everything is written to OUT/check.json, their output to OUT/PART.log. Without a GPU (or with device=cpu) the
same parts run on the CPU in small, and the tests that need a GPU are skipped. Ends with status 0 where all held, 1
where something did not, 2 for a command line that cannot be.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from scripts.gpu_check.parts import PARTS, Context, NotHeldError, NothingRanError
from vitaos.commands import read_keys
from vitaos.runtime.processes import DEVICES
from vitaos.runtime.world import choose_device

KEYS: Final = ("out", "device", "data.root", "parts")
USER_ERROR: Final = 2


@dataclass(frozen=True)
class Row:
    """What came of a part: "held", "failed" or "skipped", with what it found or why not."""

    part: str
    status: str
    seconds: float
    found: str

    def __str__(self) -> str:
        return f"{self.status:<8} {self.part:<16} {self.seconds:6.0f} s  {self.found}"


def main(arguments: Sequence[str]) -> int:
    """Run the parts, print the table, write the file; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        print(f"{__doc__}\nParts: {', '.join(PARTS)}")
        return 0
    try:
        context, names = _read(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    begin = time.monotonic()
    rows = [_run(name, context) for name in names]
    print("\n" + "\n".join(map(str, rows)))
    held = all(row.status != "failed" for row in rows)
    path = context.out / "check.json"
    report: dict[str, Any] = {
        "held": held,
        "device": context.device,
        "seconds": round(time.monotonic() - begin, 1),
        "parts": [asdict(row) for row in rows],
        "details": {file.stem: json.loads(file.read_text()) for file in sorted(context.out.glob("*.details.json"))},
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{'all held' if held else 'NOT all held'} on {context.device}, {report['seconds']:.0f} s; written: {path}")
    return 0 if held else 1


def _read(arguments: Sequence[str]) -> tuple[Context, list[str]]:
    """The command line as a context (its folder empty) and the names of the parts.

    Raises:
        ValueError: an unknown key, device or part; no CUDA device where one is asked for.
    """
    keys = read_keys(arguments, KEYS)
    names = keys["parts"].split(",") if "parts" in keys else list(PARTS)
    for name in names:
        if name not in PARTS:
            raise ValueError(f"parts={name} is unknown; choose from {', '.join(PARTS)}")
    device = keys.get("device", "auto")
    if device not in DEVICES:
        raise ValueError(f"device={device} is unknown; choose one of {', '.join(DEVICES)}")
    chosen = choose_device(device, 0).type
    out = Path(keys.get("out", "runs/gpu-check")).absolute()
    if out.is_dir() and any(out.iterdir()) and not (out / "check.log").exists():
        raise ValueError(f"out={out} holds other things: name a folder that is empty or new")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "check.log").write_text(" ".join(arguments) + "\n", encoding="utf-8")
    return Context(out=out, device=chosen, data_root=keys.get("data.root")), names


def _run(name: str, context: Context) -> Row:
    print(f"... {name}", flush=True)
    begin = time.monotonic()
    try:
        status, found = "held", PARTS[name](context)
    except NothingRanError as nothing:
        status, found = "skipped", str(nothing)
    except NotHeldError as error:
        status, found = "failed", str(error)
    row = Row(name, status, time.monotonic() - begin, found)
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
