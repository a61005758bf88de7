"""Malicious checkpoints through every door of the commands: nothing in them runs, and the message names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import eval as evaluation_command
from tests.checkpoint.test_safe_load import HOSTILE
from tests.commands.conftest import Run
from vitaos import cli
from vitaos.assembly import analysis
from vitaos.assembly.schemas import ANALYZE_SCHEMA, EVAL_SCHEMA
from vitaos.runtime.world import initialize

Door = Callable[[Path, Run, Path], object]
"""Takes a hostile file, the command train.py, and the folder of the runs."""


def _evaluate(*overrides: str) -> None:
    overrides = ("device=cpu", *overrides)
    evaluation_command.main(cli.compose(overrides, config_name="eval", schema=EVAL_SCHEMA))


def _analyze(*overrides: str) -> None:
    overrides = ("device=cpu", *overrides)
    config = cli.compose(overrides, config_name="analyze", schema=ANALYZE_SCHEMA)
    analysis.analyze(config, initialize("cpu"))


def _run_folder(file: Path, folder: Path) -> Path:
    """A run folder in which every checkpoint is the hostile file."""
    checkpoints = folder / "taken" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in ("step-00000002.pt", "step-00000004.pt", "last.pt", "best.pt"):
        shutil.copyfile(file, checkpoints / name)
    return checkpoints.parent


def _resume_auto(file: Path, run: Run, folder: Path) -> None:
    _run_folder(file, folder)
    run("name=taken")


DOORS: dict[str, Door] = {
    "resume_path": lambda file, run, folder: run("name=resumed", f"resume={file}"),
    "resume_auto": _resume_auto,
    "init": lambda file, run, folder: run("name=tuned", f"init={file}"),
    "eval_file": lambda file, run, folder: _evaluate(f"checkpoint={file}"),
    "eval_foreign": lambda file, run, folder: _evaluate(
        f"checkpoint={file}", "model=deit_ti12", "data=digits", f"data.root={folder}"
    ),
    "eval_run": lambda file, run, folder: _evaluate(f"checkpoint={_run_folder(file, folder)}"),
    "eval_ema": lambda file, run, folder: _evaluate(f"checkpoint={file}", "weights=ema"),
    "analyze": lambda file, run, folder: _analyze(f"checkpoint={file}", f"out={folder / 'analysis'}"),
    "analyze_run": lambda file, run, folder: _analyze(f"checkpoint={_run_folder(file, folder)}"),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_runs_a_hostile_file(door: str, run: Run, tmp_path: Path) -> None:
    """All kinds of files at the first door; the others lead to the same reading (``test_safe_load.py``)."""
    canary = tmp_path / "canary"
    kinds = list(HOSTILE.items()) if door == "resume_path" else list(HOSTILE.items())[:2]
    for kind, make in kinds:
        file = tmp_path / f"{kind}.pt"
        torch.save(make(canary), file)
        with pytest.raises(ValueError, match=r"contains code.*nothing was run") as refusal:
            DOORS[door](file, run, tmp_path)
        assert not canary.exists(), kind
        assert any(name in str(refusal.value) for name in (file.name, "last.pt", "step-", "best.pt")), kind


def test_a_hostile_newest_checkpoint_is_set_aside_for_the_one_before(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("name=a", "checkpoint_every=2") == 0
    checkpoints = tmp_path / "a" / "checkpoints"
    canary = tmp_path / "canary"
    newest = sorted(checkpoints.glob("step-*.pt"))[-1]
    for path in (newest, checkpoints / "last.pt"):
        path.unlink()
        torch.save(HOSTILE["os_system"](canary), path)
    assert run("name=a", "checkpoint_every=2") == 0
    assert not canary.exists()
    assert "contains code" in capsys.readouterr().out
    assert list(checkpoints.glob("*.damaged"))
