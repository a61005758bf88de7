"""Going on from a checkpoint: what does not act is logged, and what is wrong with a file is named with its key."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.commands.conftest import Run, compose_digits


@pytest.fixture(scope="module")
def finished(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with the run ``a`` after two of three steps."""
    out = tmp_path_factory.mktemp("runs")
    assert train.main(compose_digits(digits_root, *_OVERRIDES, f"out={out}", "name=a", "steps=2")) == 0
    return out


_OVERRIDES = ("depth=1", "evaluate_every=1", "batch_size=32")


@pytest.fixture
def again(finished: Path, digits_root: Path, tmp_path: Path) -> Run:
    """Start a copy of that run once more."""
    shutil.copytree(finished / "a", tmp_path / "a")

    def start(*overrides: str) -> int:
        return train.main(compose_digits(digits_root, *_OVERRIDES, f"out={tmp_path}", "name=a", "steps=2", *overrides))

    return start


def test_what_acts_otherwise_on_a_resume_is_reported(again: Run, tmp_path: Path) -> None:
    assert again("epochs=2", f"init={tmp_path / 'gone.pt'}", f"resume={tmp_path / 'other'}") == 0
    log = (tmp_path / "a" / "log.txt").read_text()
    assert "epochs: 1 there, 2 here: the schedule is another" in log
    assert "gone.pt is not read" in log
    assert "other (nothing is there) is not read" in log


def test_an_own_older_checkpoint_is_not_passed_over(again: Run, tmp_path: Path) -> None:
    checkpoints = tmp_path / "a" / "checkpoints"
    torch.save(torch.load(checkpoints / "best.pt", weights_only=True), checkpoints / "older.pt")
    with pytest.raises(ValueError, match=r"older\.pt is a checkpoint of this run itself.*another name="):
        again(f"resume={checkpoints / 'older.pt'}")
    assert again(f"resume={checkpoints / 'last.pt'}") == 0


@pytest.mark.parametrize(("key", "complaint"), [("resume", "none is there"), ("init", "no such file")])
def test_a_missing_source_leaves_no_run_folder(key: str, complaint: str, digits_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{key}=.*gone.*{complaint}"):
        train.main(compose_digits(digits_root, *_OVERRIDES, f"out={tmp_path}", "name=b", f"{key}={tmp_path / 'gone'}"))
    assert not (tmp_path / "b").exists()


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *sections, last = key.split("/")
        place: Any = content
        for section in sections:
            place = place[int(section) if section.isdigit() else section]
        if value is None and last in place and sections:
            del place[last]
        else:
            place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("progress/step", None), r"progress\.step is missing"),
        (_set("progress/sums", None), "sums"),
        (_set("progress/step", 10**30), r"progress\.step=1000"),
        (_set("progress/best_top1", "high"), r"progress\.best_top1='high'"),
        (_set("model/norm.weight", torch.zeros(3)), r"norm\.weight"),
        (_set("model/norm.weight", None), r"norm\.weight"),
        (_set("optimizer/param_groups", None), "param_groups"),
        (_set("optimizer/state/0/exp_avg", torch.zeros(3)), r"optimizer\.state\[0\]\.exp_avg has shape \(3,\)"),
        (_set("optimizer/state/0/exp_avg_sq", None), r"optimizer\.state\[0\] lacks exp_avg_sq"),
        (_set("optimizer/param_groups/0/betas", None), r"optimizer\.param_groups\[0\] lacks betas"),
        (_set("progress", [1]), "progress is a list"),
        (_set("config", None), "config is a NoneType"),
        (_set("config/data", "digits"), "data='digits'"),
    ],
)  # fmt: skip
def test_a_whole_but_wrong_checkpoint_is_named_with_the_key(
    change: Callable[[dict[str, Any]], None], complaint: str, again: Run, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "a" / "checkpoints"
    content = torch.load(checkpoints / "last.pt", weights_only=True)
    for file in checkpoints.iterdir():
        file.unlink()
    change(content)
    torch.save(content, checkpoints / "last.pt")
    with pytest.raises(ValueError, match=rf"(?s)last\.pt.*{complaint}"):
        again("steps=3")


@pytest.mark.parametrize("key", ["resume", "init"])
def test_a_source_that_is_no_checkpoint_leaves_no_run_folder(key: str, digits_root: Path, tmp_path: Path) -> None:
    source = tmp_path / "notes.pt"
    source.write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"notes\.pt"):
        train.main(compose_digits(digits_root, *_OVERRIDES, f"out={tmp_path}", "name=b", f"{key}={source}"))
    assert not (tmp_path / "b").exists()
