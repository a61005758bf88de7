"""The start of a run that goes on: its checkpoint is read once by the rank that finds it."""

from pathlib import Path
from typing import Any

import pytest

import train
from tests.commands.conftest import compose_digits
from vitaos.checkpoint import resume


def test_a_resume_reads_its_checkpoint_once(digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*overrides: str) -> int:
        return train.main(compose_digits(digits_root, f"out={tmp_path}", *overrides))

    overrides = ("name=a", "depth=1", "evaluate_every=100", "monitor.every=0")
    assert run(*overrides, "steps=2") == 0
    read: list[Path] = []
    load_file = resume.load_file

    def count(path: Path, **keywords: Any) -> Any:
        read.append(path)
        return load_file(path, **keywords)

    monkeypatch.setattr(resume, "load_file", count)
    assert run(*overrides, "steps=3") == 0
    assert [path.name for path in read] == ["step-00000002.pt"]
