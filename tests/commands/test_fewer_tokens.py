"""Token merging asked for on the command line: put on a model trained without it, and named in what follows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vitaos
from tests.commands.conftest import Run
from vitaos.assembly import analysis
from vitaos.techniques import attached

SHAPE = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 4, "num_classes": 10}
MERGING = "token_merging={r: 4, criterion: hf}"
STEM = "digits-val-token_merging_criterion_hf_r_4"


def test_a_run_is_evaluated_analyzed_and_exported_with_fewer_tokens(
    run: Run, digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("name=a", "attnscale=true", "recipe.ema_decay=null") == 0
    images = torch.randn(4, 3, 32, 32)
    model = vitaos.create_model("deit_ti12", attnscale=True, token_merging={"r": 4, "criterion": "hf"}, **SHAPE).eval()
    vitaos.load_weights(model, tmp_path / "a" / "checkpoints" / "last.pt")
    this, cpu = f"checkpoint={tmp_path / 'a'}", "device=cpu"

    whole, merged = vitaos.evaluate([this, cpu]), vitaos.evaluate([this, cpu, MERGING])
    assert merged["techniques"] == {"attnscale": True, "token_merging": {"r": 4, "criterion": "hf"}}
    assert merged["loss"] != whole["loss"]
    assert vitaos.evaluate([this, cpu, "token_merging={r: 0}"])["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert {Path(path).name for path in merged["files"]} >= {f"{STEM}.json", f"{STEM}-predictions.npz"}
    assert json.loads((tmp_path / "a" / "evaluation" / "digits-val.json").read_text())["loss"] == whole["loss"]

    vitaos_export = ["format=safetensors", f"out={tmp_path / 'given'}"]
    _export(this, MERGING, *vitaos_export)
    given: Any = vitaos.from_pretrained(tmp_path / "given")
    with torch.no_grad():
        torch.testing.assert_close(given(images), model(images), rtol=0, atol=0)
    assert attached(given)["token_merging"]["r"] == 4
    assert "None were measured" in (tmp_path / "given" / "README.md").read_text(), "the run's numbers are of all tokens"
    data = ["data=digits", f"data.root={digits_root}", "data.loader=folder", "data.workers=0", cpu]
    again = vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", *data])
    assert again["loss"] == pytest.approx(merged["loss"], rel=1e-6)
    replaced = vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", *data, "token_selection={keep: 1.0}"])
    assert replaced["loss"] == pytest.approx(whole["loss"], rel=1e-6), "the command line's in place of the folder's"

    monkeypatch.setattr(analysis, "save_figures", lambda *_, **__: [])
    found = vitaos.analyze([this, cpu, MERGING, "images=4", f"out={tmp_path / 'analysis'}"])
    assert [summary["run"] for summary in found["models"]] == ["a + token_merging (criterion=hf, r=4)"]


def _export(*overrides: str) -> None:
    from scripts import export as command  # noqa: PLC0415
    from vitaos import cli  # noqa: PLC0415
    from vitaos.assembly.schemas import EXPORT_SCHEMA  # noqa: PLC0415

    command.main(cli.compose(overrides, config_name="export", schema=EXPORT_SCHEMA))


def test_what_a_trained_model_cannot_take_is_refused(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true", "recipe.ema_decay=null") == 0
    this = [f"checkpoint={tmp_path / 'a'}", "device=cpu"]
    with pytest.raises(
        ValueError, match=r"featscale=True: .*\.pt was trained without featscale.*only token_merging and"
    ):
        vitaos.evaluate([*this, "featscale=true"])
    with pytest.raises(ValueError, match=r"\.pt: its model cannot be built: .*kept has 1 numbers"):
        vitaos.evaluate([*this, "token_merging={kept: [9]}"])
    assert vitaos.evaluate([*this, "attnscale=true"])["techniques"] == {"attnscale": True}
    assert not list((tmp_path / "a" / "evaluation").glob("*token*"))
    with pytest.raises(ValueError, match="format=onnx: token_merging sorts tokens stably"):
        _export(this[0], MERGING, "format=onnx", f"out={tmp_path / 'onnx'}")
    assert not (tmp_path / "onnx").exists()
