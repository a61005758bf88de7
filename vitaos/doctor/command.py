"""The command: ``vitaos doctor [data.root=DIR] [out=DIR] [json=FILE]``.

Looks at Python, torch, CUDA, the driver, the GPUs, NCCL, FFCV, apex, cores, memory, limits, SLURM, and the disk of
data.root, and says of each line whether it is ok, costs something (warning) or will not work (failed), with the cure.
Ends with status 0, 1 where something failed, 2 for a command line that cannot be.
"""

import json
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from vitaos.commands import read_keys
from vitaos.doctor.finding import Finding, failed
from vitaos.version import describe_version

KEYS: Final = ("data.root", "out", "json")
USER_ERROR: Final = 2


def main(arguments: Sequence[str]) -> int:
    """Print the report, write it where ``json=`` says, and return the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        print(__doc__)
        return 0
    if "--version" in arguments:
        print(describe_version())
        return 0
    try:
        keys = read_keys(arguments, KEYS)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    findings = []
    for finding in examine(keys.get("data.root"), keys.get("out", "runs")):
        print(finding, flush=True)
        findings.append(finding)
    counts = Counter(finding.status for finding in findings)
    print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failed']} failed")
    if "json" in keys:
        report = {"host": socket.gethostname(), "counts": dict(counts), "findings": [asdict(one) for one in findings]}
        path = Path(keys["json"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if counts["failed"] else 0


def of_the_machine() -> list[Callable[[], list[Finding]]]:
    """The checks that need no path."""
    # They import torch, which --help and a mistyped key need not wait for.
    from vitaos.doctor import gpu, host, software  # noqa: PLC0415

    return [
        software.python, software.packages, gpu.cuda, gpu.gpus, gpu.nccl, software.ffcv, software.apex,
        software.compiler, host.cores, host.threads, host.memory, host.limits, host.scheduler,
    ]  # fmt: skip


def examine(data_root: str | None, out: str) -> "Sequence[Finding]":
    """All findings; a check that itself breaks is a finding too, and the others go on."""
    from vitaos.doctor import data  # noqa: PLC0415  # as of_the_machine

    checks = [*of_the_machine(), lambda: data.out(out)]
    if data_root is not None:
        checks.append(lambda: data.root(data_root))
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # whatever is wrong with the machine, the rest of it is still of interest
            name = getattr(check, "__name__", "check")
            findings.append(failed(name, f"{type(error).__name__}: {error}", "please report this line"))
    return findings
