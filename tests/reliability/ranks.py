"""Ranks that do nothing but be watched: one process imports, then forks each job's ranks.

A line ``FOLDER WORLD_SIZE SILENCE_S`` on standard input starts a job. In its folder appear ``pids.json`` when all ranks
watch, ``codes.json`` when all have ended, and ``RANK.log``; ``RANK.finish``, ``RANK.leave``,
``RANK.refuse`` (a ValueError) and ``RANK.break`` (another error) say so to a rank.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from vitaos.runtime.watchdog import Watchdog


def _rank(folder: Path, rank: int, world_size: int, silence_s: float) -> None:
    log = (folder / f"{rank}.log").open("w", buffering=1)

    def share(text: str) -> str:
        invitation = folder / "invitation"
        if rank == 0:
            invitation.with_suffix(".new").write_text(text)
            invitation.with_suffix(".new").rename(invitation)
            return text
        while not invitation.exists():
            time.sleep(0.01)
        return invitation.read_text()

    try:
        with Watchdog(
            rank, world_size, share, silence_s=silence_s, beat_s=0.5, report=lambda message: print(message, file=log)
        ):
            (folder / f"{rank}.ready").touch()
            while not (folder / f"{rank}.finish").exists():
                if (folder / f"{rank}.refuse").exists():
                    raise ValueError("something for the user to mend")
                if (folder / f"{rank}.break").exists():
                    raise RuntimeError("a collective failed")
                time.sleep(0.02)
    except ValueError:
        os._exit(2)
    except RuntimeError:
        os._exit(1)
    while not (folder / f"{rank}.leave").exists():
        time.sleep(0.02)
    print("finished", file=log)
    os._exit(0)


def write_json(path: Path, value: list[int]) -> None:
    path.with_suffix(".new").write_text(json.dumps(value))
    path.with_suffix(".new").rename(path)


def _job(folder: Path, world_size: int, silence_s: float) -> None:
    pids = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            _rank(folder, rank, world_size, silence_s)
        pids.append(pid)
    while not all((folder / f"{rank}.ready").exists() for rank in range(world_size)):
        time.sleep(0.01)
    write_json(folder / "pids.json", pids)
    codes = {}
    for _ in pids:
        pid, status = os.wait()
        codes[pids.index(pid)] = os.waitstatus_to_exitcode(status)
    write_json(folder / "codes.json", [codes[rank] for rank in range(world_size)])
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the jobs themselves
    for line in sys.stdin:
        folder, world_size, silence_s = line.split()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _job(Path(folder), int(world_size), float(silence_s))


if __name__ == "__main__":
    main()
