"""``init`` and ``init_weights``: runs, folders, the hub's cache and timm's names, each read as a user would name it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train
import vitaos
from tests.commands.conftest import compose_digits
from vitaos.assembly import builders, fingerprint
from vitaos.assembly.initial_weights import load_initial_weights
from vitaos.weights.report import LoadReport

_KERNEL = "patch_embed.proj.weight"
Start = Callable[..., tuple[LoadReport, nn.Module]]


@pytest.fixture(scope="module")
def published(digits_root: Path) -> nn.Module:
    """A model of the digits' kind with another seed, as someone else would give it away."""
    return builders.build_model(compose_digits(digits_root, "depth=1", "seed=7"), 10)


@pytest.fixture
def start(digits_root: Path) -> Start:
    """Build the digits' model and load its initial weights."""

    def load(*words: str) -> tuple[LoadReport, nn.Module]:
        config = compose_digits(digits_root, "depth=1", *words)
        model = builders.build_model(config, 10)
        report = load_initial_weights(config, model)
        assert report is not None
        return report, model

    return load


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a repository in an empty cache of the hub, which may not ask for more; returns where its files belong."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def repository(name: str) -> Path:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("a" * 40)
        return folder / "snapshots" / ("a" * 40)

    return repository


def same(model: nn.Module, source: nn.Module, scale: float = 1.0) -> bool:
    return torch.equal(model.state_dict()[_KERNEL], source.state_dict()[_KERNEL] * scale)


def save_run(content: dict[str, Any], published: nn.Module, folder: Path) -> Path:
    """A run whose raw weights are those published and whose average is twice as large."""
    state = published.state_dict()
    path = folder / "checkpoints" / "step-00000002.pt"
    path.parent.mkdir(parents=True)
    torch.save(content | {"model": state, "ema": {key: value * 2 for key, value in state.items()}}, path)
    return path


def test_a_run_gives_its_raw_or_averaged_weights(
    whole_checkpoint: dict[str, Any], published: nn.Module, start: Start, tmp_path: Path
) -> None:
    path = save_run(whole_checkpoint, published, tmp_path / "run")
    for source in (path, tmp_path / "run"):
        for words, scale in (([], 1.0), (["init_weights=raw"], 1.0), (["init_weights=ema"], 2.0),
                             (["init_weights=auto"], 2.0)):  # fmt: skip
            report, model = start(f"init={source}", "attnscale=true", *words)
            assert same(model, published, scale)
            assert "attnscale: no values in the checkpoint, start at the identity" in str(report)
            assert f"started from init={source}: {path}" in str(report)
            assert ("running average" in str(report)) == (scale == 2)


def test_a_run_without_an_average_has_raw_weights_alone(
    whole_checkpoint: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    torch.save(whole_checkpoint, tmp_path / "lone.pt")
    start(f"init={tmp_path / 'lone.pt'}", "init_weights=auto")
    with pytest.raises(ValueError, match=r"init=.*lone\.pt holds no running average.*init_weights=raw"):
        start(f"init={tmp_path / 'lone.pt'}", "init_weights=ema")


def test_an_exported_folder_and_one_of_timms_old_format(published: nn.Module, start: Start, tmp_path: Path) -> None:
    vitaos.save_pretrained(published, tmp_path / "out", preprocessing={"mean": (0.1, 0.2, 0.3)})
    report, model = start(f"init={tmp_path / 'out'}")
    assert same(model, published)
    assert "normalized otherwise; as there: data.mean=[0.1,0.2,0.3] data.std=[0.229,0.224,0.225]" in str(report)
    (tmp_path / "old").mkdir()
    torch.save(published.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    report, model = start(f"init={tmp_path / 'old'}")
    assert same(model, published)
    assert "normalized" not in str(report)


def test_the_hub_and_timms_names(hub: Callable[[str], Path], published: nn.Module, start: Start) -> None:
    architecture: Any = published.pretrained_cfg
    default = f"{architecture['architecture']}.{architecture['tag']}"
    sources = {
        "hf-hub:someone/model": "someone/model",
        "timm": f"timm/{default}",
        "vit_tiny_patch16_224.augreg_in21k": "timm/vit_tiny_patch16_224.augreg_in21k",
    }
    for init, repository in sources.items():
        vitaos.save_pretrained(published, hub(repository))
        report, model = start(f"init={init}")
        assert same(model, published), init
        assert not report.missing
    with pytest.raises(ValueError, match=r"init=hf-hub:someone/else: .*model\.safetensors cannot be had from the hub"):
        start("init=hf-hub:someone/else")
    with pytest.raises(ValueError, match=r"init=vit_tiny_patch16_384: hf-hub:timm/vit_tiny_patch16_384\.augreg"):
        start("init=vit_tiny_patch16_384")
    with pytest.raises(ValueError, match="init=timm: timm publishes no weights for vit_small_patch16_36x1_224"):
        start("init=timm", "model=vit_small_patch16_36x1_224")


@pytest.mark.parametrize("wrong", ["empty", "other depth", "not weights"])
def test_weights_that_cannot_be_used_leave_no_run_folder(
    wrong: str, digits_root: Path, published: nn.Module, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if wrong == "other depth":
        deeper = builders.build_model(compose_digits(digits_root, "depth=2"), 10)
        torch.save(deeper.state_dict(), source / "pytorch_model.bin")
    elif wrong == "not weights":
        (source / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"init={source}: "):
        train.main(compose_digits(digits_root, "depth=1", f"out={tmp_path / 'runs'}", "name=b", f"init={source}"))
    assert not (tmp_path / "runs" / "b").exists()


def test_the_choice_of_weights_is_part_of_a_runs_name_unless_it_is_the_default(digits_root: Path) -> None:
    names = {
        fingerprint.run_name(compose_digits(digits_root, "init=a.pt", *words), 1)
        for words in ([], ["init_weights=raw"], ["init_weights=ema"])
    }
    assert len(names) == 2
    assert "init_weights" not in json.dumps(fingerprint.run_fingerprint(compose_digits(digits_root)))
