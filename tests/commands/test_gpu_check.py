"""scripts/check_gpu.sh: its words, its status, its file; and how it tells two states apart."""

import json
from pathlib import Path

import pytest
import torch

from scripts.gpu_check import command, parts
from scripts.gpu_check.parts import Context, NotHeldError, NothingRanError, differences


def fail(_: Context) -> str:
    raise NotHeldError("3 tensors differ")


def skip(_: Context) -> str:
    raise NothingRanError("no GPU")


@pytest.mark.parametrize(("failing", "status"), [(True, 1), (False, 0)])
def test_table_file_and_status(
    failing: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"good": lambda _: "12 passed", "none": skip} | ({"bad": fail} if failing else {})
    monkeypatch.setattr(command, "PARTS", chosen)
    out = tmp_path / "check"
    assert command.main([f"out={out}", "device=cpu"]) == status
    report = json.loads((out / "check.json").read_text())
    assert report["held"] is not failing
    found = {row["part"]: (row["status"], row["found"]) for row in report["parts"]}
    assert found["good"] == ("held", "12 passed")
    assert found["none"] == ("skipped", "no GPU")
    assert failing == (found.get("bad") == ("failed", "3 tensors differ"))
    assert "good" in capsys.readouterr().out
    assert command.main([f"out={out}", "device=cpu", "parts=good"]) == 0, "its own folder is used again"


@pytest.mark.parametrize("words", [["fast=1"], ["out="], ["parts=nothing"], ["device=tpu"]])
def test_a_wrong_word_ends_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert command.main([f"out={tmp_path}", "device=cpu"]) == 2
    assert (tmp_path / "thesis.tex").exists()
    assert "holds other things" in capsys.readouterr().err


@pytest.mark.long
def test_the_doctor_runs_as_a_part(tmp_path: Path) -> None:
    assert "0 failed" in parts.doctor(Context(out=tmp_path, device="cpu"))
    with pytest.raises(NotHeldError, match=r"status 1: .* 1 failed"):
        parts.doctor(Context(out=tmp_path, device="cpu", data_root=str(tmp_path / "nowhere")))


def test_a_single_bit_is_a_difference() -> None:
    state = {"model": {"weight": torch.ones(3)}, "steps": [1, (2.0, "x")]}
    again = {"model": {"weight": torch.ones(3)}, "steps": [1, (2.0, "x")]}
    assert differences(state, again, "state") == []
    again["model"]["weight"][1] += 2**-23
    assert differences(state, again, "state") == ["state.model.weight"]
    assert differences(state, {"model": state["model"]}, "state") == ["state"]
    assert differences([1], [2], "x") == ["x[0]"]


def test_what_needs_a_gpu_is_skipped_without_one_and_not_failed(tmp_path: Path) -> None:
    with pytest.raises(NothingRanError, match="fp16"):
        parts.PARTS["learns-fp16"](Context(tmp_path, "cpu"))
