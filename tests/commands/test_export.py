"""``vitaos export``: a run as a folder, a card and graphs, read again by vitaos, timm and ONNX Runtime."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import vitaos
from scripts import export as export_command
from tests.commands.conftest import Run
from vitaos import cli
from vitaos.assembly.eval_target import build_model, resolve_checkpoint
from vitaos.assembly.schemas import EXPORT_SCHEMA


def export(*overrides: str) -> None:
    export_command.main(cli.compose(overrides, config_name="export", schema=EXPORT_SCHEMA))


def trained(run_folder: Path, weights: str) -> nn.Module:
    config = cli.compose([], config_name="export", schema=EXPORT_SCHEMA)
    target = resolve_checkpoint(config, str(run_folder))
    model = build_model(target, 10).eval()
    target.load_weights(model, weights)
    return model


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def test_an_exported_folder_is_evaluated_as_its_run(run: Run, digits_root: Path, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true", "skip_gain=0.5", "recipe.ema_decay=null") == 0
    export(f"checkpoint={tmp_path / 'a'}", f"out={tmp_path / 'given'}")
    data = ["data=digits", f"data.root={digits_root}", "data.loader=folder", "data.workers=0", "device=cpu"]
    found = vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", *data])
    (line,) = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert (found["count"], found["techniques"]) == (360, {"attnscale": True})
    assert found["top1"] == pytest.approx(line["val_top1"])
    assert found["loss"] == pytest.approx(line["val_loss"], rel=1e-5)
    with pytest.raises(ValueError, match=r"is an exported model and has no images with it: add data="):
        vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", "device=cpu"])
    with pytest.raises(ValueError, match="no running average"):
        vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", "weights=ema", *data])
    config = tmp_path / "given" / "config.json"
    config.write_text(
        json.dumps(
            json.loads(config.read_text()) | {"vitaos": {"backbone": "deit_ti12", "techniques": {"checkpoint": 1}}}
        )
    )
    with pytest.raises(ValueError, match="names a technique that is none: checkpoint"):
        vitaos.evaluate([f"checkpoint={tmp_path / 'given'}", *data])


def test_an_exported_run_gives_the_same_logits(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true", "skip_gain=0.5") == 0
    images = torch.randn(2, 3, 32, 32)
    for weights in ("ema", "raw"):
        out = tmp_path / weights
        export(f"checkpoint={tmp_path / 'a'}", f"out={out}", f"weights={weights}", "license=mit")
        assert torch.equal(
            logits(vitaos.from_pretrained(out), images), logits(trained(tmp_path / "a", weights), images)
        )
    config = json.loads((tmp_path / "ema" / "config.json").read_text())
    assert config["label_names"] == [str(digit) for digit in range(10)]
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert config["pretrained_cfg"]["license"] == "mit"
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text())
    assert config["vitaos"]["metrics"]["ema_top1"] == line["ema_top1"]
    card = (tmp_path / "ema" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "n = 1), 360 validation images; trained on 1 x " in card
    assert f"| ema_top1 | {line['ema_top1']} |" in card
    assert "| recipe.lr |" in card
    assert "@inproceedings" in card
    with pytest.raises(ValueError, match="not empty"):
        export(f"checkpoint={tmp_path / 'a'}", f"out={tmp_path / 'ema'}")


def test_a_plain_run_is_a_folder_of_timm_and_a_graph(run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0
    images, expected = torch.randn(3, 3, 32, 32), trained(tmp_path / "a", "ema")
    for kind in ("safetensors", "onnx", "torch_export"):
        export(f"checkpoint={tmp_path / 'a'}", f"out={tmp_path / kind}", f"format={kind}")
        assert json.loads((tmp_path / kind / "config.json").read_text())["label_names"] == list("0123456789")
    answer = logits(expected, images)
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'safetensors'}", pretrained=True).eval()
    assert torch.equal(logits(by_timm, images), answer)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], answer, atol=1e-5, rtol=1e-4)
    program = torch.export.load(tmp_path / "torch_export" / "model.pt2").module()
    torch.testing.assert_close(program(images), answer)


def test_a_stored_interpolation_is_never_resolved(run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0
    content = torch.load(tmp_path / "a" / "checkpoints" / "last.pt", weights_only=True)
    content["config"]["data"]["name"] = "${oc.env:HOME}"
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="interpolations are not resolved"):
        export(f"checkpoint={tmp_path / 'bad.pt'}", f"out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
