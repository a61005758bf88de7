"""Where a run goes on: its newest checkpoint that is whole, or the one asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from vitaos.checkpoint.folder import candidates, checkpoint_folder, step_in_name
from vitaos.checkpoint.safe_load import load_file

FORMAT: Final = "vitaos-1"
KEYS: Final = ("format", "model", "ema", "optimizer", "loss_scaler", "progress", "config")

_SECTIONS: Final = {
    "model": (Mapping,),
    "ema": (Mapping, type(None)),
    "optimizer": (Mapping,),
    "loss_scaler": (Mapping, type(None)),
    "progress": (Mapping,),
    "config": (Mapping,),
}


class ResumePoint(NamedTuple):
    """A checkpoint to resume from.

    Attributes:
        path: its file.
        step: its global step.
        config: the configuration of its run.
        data: the fingerprints of its data, None where an older version wrote it.
        notes: messages for the log about what is wrong with newer ones.
        damaged: those newer ones.
        contents: what the file holds, where it was read to find this out.
    """

    path: Path
    step: int
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    damaged: tuple[Path, ...] = ()
    data: Mapping[str, Any] | None = None
    contents: Mapping[str, Any] | None = None


def load_checkpoint(path: str | Path, *, check: bool = True, mmap: bool = False) -> dict[str, Any]:
    """Read one vitaos checkpoint to the CPU; `check` and `mmap` as :func:`vitaos.checkpoint.safe_load.load_file`.

    Raises:
        ValueError: missing, truncated, damaged, contains code, or not written by vitaos. Nothing in it has been run.
    """
    contents = load_file(path, check=check, mmap=mmap)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of a vitaos run (its `format` is not {FORMAT!r}): it cannot be resumed."
        )
    missing = [key for key in KEYS if key not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it cannot be resumed.")
    for key, kinds in _SECTIONS.items():
        if not isinstance(contents[key], kinds):
            raise ValueError(f"{path}: {key} is a {type(contents[key]).__name__}, expected a mapping: it is damaged.")
    return contents


def _step_of(path: Path, contents: Mapping[str, Any]) -> int:
    named = step_in_name(path)
    if named is not None:
        return named
    progress = contents["progress"]
    step = progress.get("step") if isinstance(progress, Mapping) else None
    return step if isinstance(step, int) else 0


def find_newest(folder: str | Path, *, mmap: bool = False) -> ResumePoint | None:
    """The newest whole checkpoint of ``folder`` (a run folder or its ``checkpoints``); None when there is none at all.

    Raises:
        ValueError: there are checkpoints but every one is damaged; each is named with what is wrong.
    """
    notes: list[str] = []
    damaged: list[Path] = []
    newest: ResumePoint | None = None
    files = candidates(checkpoint_folder(Path(folder)))
    for path in files:
        if newest is not None and (step_in_name(path) or 0) <= newest.step:
            break  # the others are older still
        try:
            found = _point(path, mmap=mmap)
        except ValueError as error:
            notes.append(str(error))
            damaged.append(path)
            continue
        if newest is not None:  # a last.pt of its own that is older than a numbered one: a copy was cut off
            notes.append(f"{newest.path} is of step {newest.step}: {path} is newer.")
        newest = found
    if newest is None and files:
        raise ValueError(
            f"No checkpoint of this run can be read, so it cannot continue: {' '.join(notes)} "
            "Restore one of these files, or start anew under another `name`."
        )
    if newest is None:
        return None
    if notes:
        notes.append(f"Going on from {newest.path} (step {newest.step}).")
    return newest._replace(notes=tuple(notes), damaged=tuple(damaged))


def _point(path: Path, *, mmap: bool) -> ResumePoint:
    contents = load_checkpoint(path, mmap=mmap)
    return ResumePoint(path, _step_of(path, contents), contents["config"], data=contents.get("data"), contents=contents)


def find_resume(resume: str, folder: str | Path, *, mmap: bool = False) -> ResumePoint | None:
    """Where a run starts: the checkpoint that ``resume`` means for the run whose checkpoints are in ``folder``.

    ``auto``: the newest whole one of ``folder``. ``never``: none. Else the path of a checkpoint file or of a run
    folder; but a run that already has checkpoints of its own continues from those, so that the same command, given
    again after a preemption, does not go back to where it first began.

    Raises:
        ValueError: nothing at the path given, or nothing there can be read.
    """
    if resume == "never":
        return None
    own = find_newest(folder, mmap=mmap)
    if own is not None or resume == "auto":
        return own
    path = resume_source(resume)
    if path.is_dir():
        found = find_newest(path, mmap=mmap)
        if found is None:
            raise ValueError(f"resume={resume}: no checkpoint in that folder.")
        return found
    return _point(path, mmap=mmap)


def resume_source(resume: str) -> Path:
    """The checkpoint or run folder that ``resume``, neither ``auto`` nor ``never``, names.

    Raises:
        ValueError: nothing is there.
    """
    path = Path(resume)
    if not path.exists():
        raise ValueError(
            f"resume={resume}: it is auto, never, or the path of a checkpoint or run folder; none is there."
        )
    return path
