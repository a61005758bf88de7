"""Models as folders and graphs: written, read again bit for bit, by vitaos, timm and ONNX Runtime; hostile folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch

import vitaos
from tests.weights.small_models import assert_same, make, stirred
from vitaos.weights.graph import export_onnx, export_program
from vitaos.weights.pretrained import from_pretrained, save_pretrained

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("deit_s12", {}),
    "both": ("deit_s12", {"attnscale": True, "featscale": True}),
    "options": ("cait_s24", {"contranorm": {"scale": 0.2}}),
    "swin": ("swin_t", {"attnscale": True, "featscale": True}),
    "buffers": ("deit_s12", {"re_attention": True, "sigma_reparam": True}),
}


def build(case: str) -> torch.nn.Module:
    name, keywords = MODELS[case]
    return stirred(make(name, **keywords)).eval()


@pytest.mark.parametrize("case", MODELS)
def test_a_folder_gives_the_same_logits(case: str, tmp_path: Path) -> None:
    model = build(case)
    save_pretrained(model, tmp_path / "out", class_names=list("abcde"), preprocessing={"mean": (0.1, 0.2, 0.3)})
    loaded: Any = vitaos.from_pretrained(tmp_path / "out")
    assert not loaded.training
    assert_same(loaded, model, 24 if case == "swin" else 16)
    assert loaded.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert loaded.pretrained_cfg["label_names"] == list("abcde")
    with pytest.raises(ValueError, match="not empty"):
        save_pretrained(model, tmp_path / "out")


def test_timm_loads_a_plain_folder_and_refuses_one_with_techniques(tmp_path: Path) -> None:
    plain, changed = build("plain"), stirred(make(contranorm=True))
    save_pretrained(plain, tmp_path / "plain")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'plain'}", pretrained=True).eval()
    assert_same(loaded, plain)
    save_pretrained(changed, tmp_path / "changed")
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{tmp_path / 'changed'}", pretrained=True)


def test_a_repository_in_the_cache_of_the_hub_loads_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as huggingface_hub lays it out: refs/main names a snapshot."""
    model = build("both")
    repository = tmp_path / "models--someone--deit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    save_pretrained(model, repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(vitaos.from_pretrained("hf-hub:someone/deit"), model)
    with pytest.raises(ValueError, match=r"hf-hub:someone/other: config\.json cannot be had from the hub"):
        vitaos.from_pretrained("hf-hub:someone/other")


HOSTILE: dict[str, dict[str, Any]] = {
    "checkpoint_path": {"model_args": {"checkpoint_path": "/etc/passwd"}},
    "pretrained": {"model_args": {"pretrained": True}},
    "pretrained_cfg": {"model_args": {"pretrained_cfg": {"file": "/etc/passwd"}}},
    "cache_dir": {"model_args": {"cache_dir": "/tmp/somewhere"}},
    "architecture": {"architecture": "local-dir:/etc", "vitaos": {}},
    "hub": {"architecture": "hf-hub:someone/else", "vitaos": {}},
    "technique": {"vitaos": {"backbone": "deit_small_patch16_224", "techniques": {"os": True}}},
    "no mapping": {"model_args": []},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_opens_nothing(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    save_pretrained(build("plain"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | HOSTILE[case]))
    with pytest.raises(ValueError, match=str(folder)):
        from_pretrained(folder)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    save_pretrained(build("plain"), folder)
    for text in ("{", "[]", "[" * 100_000):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"out: config\.json"):
            from_pretrained(folder)
    with pytest.raises(ValueError, match=r"nowhere holds no config\.json"):
        from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("case", ["both", "swin", "options"])
def test_programs_take_any_number_of_images_and_give_the_same_logits(case: str, tmp_path: Path) -> None:
    model, side = build(case), 24 if case == "swin" else 16
    program = torch.export.load(export_program(model, tmp_path / "model.pt2", (3, side, side))).module()
    for count in (1, 3):
        x = torch.randn(count, 3, side, side)
        with torch.no_grad():
            torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["both", "options"])
def test_onnx_files_take_any_number_of_images_and_give_the_same_logits(case: str, tmp_path: Path) -> None:
    model = build(case)
    path = export_onnx(model, tmp_path / "model.onnx", (3, 16, 16))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = torch.randn(count, 3, 16, 16)
        (logits,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(x).numpy(), rtol=1e-4, atol=1e-5)
