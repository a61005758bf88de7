"""``vitaos.train``, ``evaluate`` and ``analyze``: the commands as functions, in this process, one after the other."""

import json
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import vitaos

_SMALL = ["depth=1", "batch_size=64", "epochs=1", "device=cpu", "data.loader=folder", "data.workers=0"]


def test_the_commands_as_functions(digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data=digits", f"data.root={digits_root}", *_SMALL, "name=a", "attnscale=true"]
    run = vitaos.train([*words, "steps=1", "deterministic=true"])
    assert (run["folder"], run["status"]) == ("runs/a", 0)
    assert [line["step"] for line in run["metrics"]] == [1]
    assert vitaos.train([*words, "steps=2"])["metrics"][-1]["step"] == 2, "called again, the run goes on"
    assert not torch.are_deterministic_algorithms_enabled(), "a run's settings end with it"

    result = vitaos.evaluate([f"checkpoint={run['folder']}", "device=cpu", "weights=raw"])
    assert result["count"] == 360
    assert result["top1"] == result["weights"]["raw"]["top1"]
    assert json.loads(Path(result["files"][0]).read_text())["top1"] == result["top1"]

    looked = vitaos.analyze([f"checkpoint={run['folder']}", "images=4", "device=cpu", "out=figures"])
    assert [model["run"] for model in looked["models"]] == ["a"]
    assert {"summary.json", "overview.png"} <= {Path(path).name for path in looked["files"]}
    json.dumps([run, result, looked])  # plain values
    assert not GlobalHydra.instance().is_initialized()


def test_mistakes_are_value_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"atnscale: unknown key; did you mean attnscale"):
        vitaos.train(["data=digits", "atnscale=true"])
    with pytest.raises(ValueError, match=r"overrides='depth=1': expected a list of words"):
        vitaos.train("depth=1")
    with pytest.raises(ValueError, match="checkpoint=RUN_OR_FILE is missing"):
        vitaos.evaluate([])
    with pytest.raises(ValueError, match="nothing to analyze"):
        vitaos.analyze([f"out={tmp_path / 'out'}"])
