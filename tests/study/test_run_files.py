"""Run folders read as data: damaged ones are named, and nothing in them is resolved."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.run_folders import Write, study
from vitaos.study.report import write_report

DAMAGE: dict[str, Callable[[Path], object]] = {
    "config.yaml is no file": lambda run: ((run / "config.yaml").unlink(), (run / "config.yaml").mkdir()),
    "no YAML": lambda run: (run / "config.yaml").write_text("model: [deit"),
    "aliases are refused": lambda run: (run / "config.yaml").write_text("a: &a [x, x]\nb: [*a, *a]\n"),
    "not the keys": lambda run: (run / "config.yaml").write_text("text\n"),
    "nested too deeply": lambda run: (run / "config.yaml").write_text("[" * 20000),
    "larger than": lambda run: (run / "config.yaml").write_text("a: " + "x" * 1_000_001),
    "model.name is missing": lambda run: (run / "config.yaml").write_text("{model: 3, data: {name: a}}"),
    "epochs='ten' is not int": lambda run: replace_in(run / "config.yaml", "epochs: 2", "epochs: ten"),
    "metrics.jsonl is no file": lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()),
    "epoch='1'": lambda run: (run / "metrics.jsonl").write_text('{"epoch": "1", "step": 2}\n'),
    "environment.json is no file": lambda run: (run / "environment.json").mkdir(),
    "no list of sessions": lambda run: (run / "environment.json").write_text('{"sessions": 3}'),
}


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_run_folder_is_named_and_the_others_are_reported(write: Write, tmp_path: Path, reason: str) -> None:
    write("good", 80.0)
    DAMAGE[reason](write("bad", 81.0, seed=1))
    result = study(tmp_path)
    assert [run.path.name for run in result.cells[0].runs] == ["good"]
    (damaged,) = result.unreadable
    assert damaged.path == tmp_path / "bad"
    assert str(damaged.path) in damaged.reason
    assert reason in damaged.reason


def test_what_a_run_folder_holds_is_data(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    folder = write("a", 80.0)
    replace_in(folder / "config.yaml", "name: imagenet", "name: ${oc.env:SECRET}/../../x")
    files = write_report(study(tmp_path), tmp_path / "report")
    assert all(file.parent == tmp_path / "report" for file in files)
    assert not any("hunter2" in file.name or "hunter2" in file.read_text(errors="replace") for file in files)


def test_numbers_are_read_as_omegaconf_writes_them(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, recipe={"lr": 1e-5})
    assert study(tmp_path).cells[0].runs[0].config["recipe.lr"] == 1e-5
