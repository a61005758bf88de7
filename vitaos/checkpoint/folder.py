"""Names in the ``checkpoints`` folder of a run, and which of its files is the newest.

``step-00001200.pt`` is the checkpoint of a global step, ``last.pt`` another name of the newest one, ``best.pt`` that of
the best accuracy so far.
"""

import re
from pathlib import Path
from typing import Final

CHECKPOINTS: Final = "checkpoints"
LAST: Final = "last.pt"
BEST: Final = "best.pt"
DAMAGED_SUFFIX: Final = ".damaged"
_STEP_NAME: Final = re.compile(r"step-(\d{8,})\.pt")


def step_name(step: int) -> str:
    """The file name of the checkpoint of a global step."""
    return f"step-{step:08d}.pt"


def step_in_name(path: Path) -> int | None:
    """The global step that a file name stands for; None for any other name."""
    named = _STEP_NAME.fullmatch(path.name)
    return int(named.group(1)) if named else None


def step_files(folder: Path) -> list[tuple[int, Path]]:
    """The numbered checkpoints of a folder as (step, path), newest first."""
    if not folder.is_dir():
        return []
    numbered = [(step_in_name(path), path) for path in folder.iterdir()]
    return sorted(((step, path) for step, path in numbered if step is not None), reverse=True)


def candidates(folder: Path) -> list[Path]:
    """Files to resume from: ``last.pt``, the numbered ones, newest first, and ``best.pt`` for where these are damaged.

    A name counts only where it is not another one of a file before it; ``best.pt`` alone is what was kept of a run, and
    not a place to go on from unasked.
    """
    files = [path for _, path in step_files(folder)]
    last, best = folder / LAST, folder / BEST
    if _is_another(last, files):
        files.insert(0, last)
    if files and _is_another(best, files):
        files.append(best)
    return files


def _is_another(path: Path, files: list[Path]) -> bool:
    """Whether a file is there and no other name of one of these."""
    return path.exists() and not any(path.samefile(file) for file in files)


def checkpoint_folder(folder: Path) -> Path:
    """The ``checkpoints`` folder of a run folder; a folder without one is taken for a ``checkpoints`` folder itself."""
    inner = folder / CHECKPOINTS
    return inner if inner.is_dir() else folder


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint file lies in; None for a file that lies elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None
