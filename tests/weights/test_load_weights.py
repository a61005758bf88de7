"""load_weights: where checkpoints come from, what is mapped, resized, reported, and refused."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights.small_models import assert_same, make, stirred
from vitaos.weights.load import load_weights


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_files_of_every_ending(tmp_path: Path, ending: str) -> None:
    source, model, path = stirred(make(attnscale=True)), make(attnscale=True), tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"model": source.state_dict()}, path)
    for given in (path, str(path)):
        report = load_weights(model, given)
        assert len(report.loaded) == len(source.state_dict())
        assert not report.missing
        assert not report.unexpected
    assert_same(model, source)


def test_files_of_vitaos_and_of_the_release_with_their_averages(tmp_path: Path) -> None:
    raw, average = stirred(make(featscale=True)), stirred(make(featscale=True))
    vitaos_file = {
        "format": "vitaos-1",
        "model": raw.state_dict(),
        "ema": average.state_dict(),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        "config": {"model": {"name": "deit_s12"}},
    }
    torch.save(vitaos_file, tmp_path / "last.pt")
    release = {
        "model": raw.state_dict(),
        "model_ema": average.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=5e-4, model="featscale_small_12"),
    }
    torch.save(release, tmp_path / "checkpoint.pth")
    for name in ("last.pt", "checkpoint.pth"):
        model = make(featscale=True)
        load_weights(model, tmp_path / name)
        assert_same(model, raw)
        load_weights(model, tmp_path / name, weights="ema")
        assert_same(model, average)
    with pytest.raises(ValueError, match=r"no averaged \(EMA\) weights"):
        load_weights(make(), {**vitaos_file, "ema": None}, weights="ema")
    with pytest.raises(ValueError, match="weights='raw' is unknown"):
        load_weights(make(), vitaos_file, weights="raw")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers(prefix: str) -> None:
    source, model = stirred(make()), make()
    load_weights(model, {f"{prefix}{key}": value for key, value in source.state_dict().items()})
    assert_same(model, source)


def test_wrapped_models_are_unwrapped() -> None:
    source, model = stirred(make()), make()
    compiled: Any = torch.compile(nn.DataParallel(model), backend="eager")
    report = load_weights(compiled, source.state_dict())
    assert "cls_token" in report.loaded
    assert_same(model, source)


def _released(model: nn.Module) -> dict[str, Tensor]:
    """A model's state under the names of the release."""
    names = (("attn_scale", "lamb"), ("feat_scale_dc", "lamb1"), ("feat_scale_hf", "lamb2"))
    state = {}
    for key, value in model.state_dict().items():
        name = key
        for ours, theirs in names:
            name = re.sub(rf"\.{ours}$", f".{theirs}", name)
        state[name] = value
    return state


def test_attnscale_of_the_release() -> None:
    for name in ("deit_s12", "cait_s24", "swin_t"):
        source, model = stirred(make(name, attnscale=True)), make(name, attnscale=True)
        report = load_weights(model, _released(source))
        assert not report.missing
        assert not report.doubled
        assert_same(model, source, 24 if name == "swin_t" else 16)


def test_featscale_of_the_releases_deit_is_applied_twice() -> None:
    """Checked against the release's own arithmetic on the output of the attention branch."""
    source = stirred(make(featscale=True))
    model = make(featscale=True)
    report = load_weights(model, _released(source))
    assert sorted(report.doubled) == [f"blocks.{i}.feat_scale_{band}" for i in (0, 1) for band in ("dc", "hf")]

    release: Any = make()
    load_weights(release, {k: v for k, v in source.state_dict().items() if "feat_scale" not in k})
    state = source.state_dict()
    for index, block in enumerate(release.blocks):

        def twice(_: nn.Module, __: Any, y: Tensor, index: int = index) -> Tensor:
            direct = y.mean(-2, keepdim=True)
            low = direct * state[f"blocks.{index}.feat_scale_dc"]
            high = (y - direct) * state[f"blocks.{index}.feat_scale_hf"]
            return y + low + high + low + high

        block.attn.register_forward_hook(twice)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), release(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(source(x), release(x), atol=1e-2)


@pytest.mark.parametrize("name", ["cait_s24", "swin_t"])
def test_featscale_of_the_releases_cait_and_swin_is_applied_once(name: str) -> None:
    source, model = stirred(make(name, featscale=True)), make(name, featscale=True)
    report = load_weights(model, _released(source))
    assert not report.doubled
    assert_same(model, source, 24 if name == "swin_t" else 16)


def test_official_swin() -> None:
    source, model = stirred(make("swin_t")), make("swin_t")
    official = {}
    for key, value in source.state_dict().items():
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m.group(1)) - 1}.downsample", key)
        official[name.replace("head.fc.", "head.")] = value
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    official["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.long)
    assert "layers.0.downsample.norm.weight" in official
    report = load_weights(model, {"model": official})
    assert len(report.skipped) == 2
    assert not report.missing
    assert_same(model, source, 24)


def test_official_deit_three_and_distilled() -> None:
    source, model = stirred(make(init_values=0.1)), make(init_values=0.1)
    official = {re.sub(r"ls([12])\.gamma", r"gamma_\1", key): value for key, value in source.state_dict().items()}
    assert "blocks.0.gamma_1" in official
    assert not load_weights(model, official).missing
    assert_same(model, source)

    teacher = stirred(make("deit_small_distilled_patch16_224"))
    student = make("deit_small_distilled_patch16_224", attnscale=True)
    report = load_weights(student, teacher.state_dict())
    assert report.missing == ["blocks.0.attn.attn_scale", "blocks.1.attn.attn_scale"]
    assert_same(student, teacher)
    with pytest.raises(ValueError, match="Only the checkpoint is a distilled DeiT"):
        load_weights(make(), teacher.state_dict())


@pytest.mark.parametrize("name", ["deit_s12", "cait_s24", "swin_t"])
def test_plain_weights_into_a_model_with_techniques(name: str) -> None:
    source, model = stirred(make(name)), make(name, attnscale=True, featscale=True)
    report = load_weights(model, source.state_dict())
    assert report.missing
    assert not report.missing_backbone
    assert all(key.endswith(("attn_scale", "feat_scale_dc", "feat_scale_hf")) for key in report.missing)
    assert f"missing {len(report.missing)}: " in str(report)
    assert_same(model, source, 24 if name == "swin_t" else 16)


def test_position_embeddings_are_interpolated() -> None:
    for name, keywords in (("deit_s12", {}), ("deit_s12", {"reg_tokens": 2}), ("cait_s24", {})):
        source, model = stirred(make(name, **keywords)), make(name, img_size=(32, 24), **keywords)
        report = load_weights(model, source.state_dict())
        old, new = report.resized["pos_embed"]
        assert new[1] - old[1] == 8 * 6 - 4 * 4
        prefix = new[1] - 8 * 6
        assert torch.equal(model.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
        assert model.pos_embed[:, prefix:].mean().sub(source.pos_embed[:, prefix:].mean()).abs() < 0.01
        assert "resized pos_embed: " in str(report)
        assert model(torch.randn(1, 3, 32, 24)).shape == (1, 5)


def test_relative_position_tables_are_interpolated() -> None:
    source, model = stirred(make("swin_t")), make("swin_t", img_size=32, window_size=4)
    report = load_weights(model, source.state_dict())
    assert report.resized["layers.0.blocks.0.attn.relative_position_bias_table"] == ((25, 2), (49, 2))
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    old, new = source.state_dict()[name].view(5, 5, 2), model.state_dict()[name].view(7, 7, 2)
    torch.testing.assert_close(new[3, 3], old[2, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(new[0, 0], old[0, 0], atol=1e-4, rtol=0)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_classifier_of_another_size() -> None:
    for name, size in (("deit_s12", 16), ("swin_t", 24)):
        source, model = stirred(make(name, num_classes=7)), make(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r'5 classes of data with a 7-class checkpoint.*classifier="reset"'):
            load_weights(model, source.state_dict())
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        report = load_weights(model, source.state_dict(), classifier="reset")
        head = "head.fc" if name == "swin_t" else "head"
        assert report.skipped == [f"{head}.weight", f"{head}.bias"]
        assert not report.missing
        assert torch.equal(model.state_dict()[f"{head}.weight"], before[f"{head}.weight"])
        assert model(torch.randn(1, 3, size, size)).shape == (1, 5)
        assert load_weights(model, source.state_dict(), classifier="fit").skipped == report.skipped
        alike = make(name, num_classes=7)
        assert not load_weights(alike, source.state_dict(), classifier="fit").skipped
        assert torch.equal(alike.state_dict()[f"{head}.weight"], source.state_dict()[f"{head}.weight"])
    headless = make(num_classes=0)
    assert load_weights(headless, stirred(make()).state_dict()).skipped == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="classifier='drop' is unknown"):
        load_weights(make(), make().state_dict(), classifier="drop")


def test_stray_tensors_are_reported_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    state = dict(stirred(make()).state_dict())
    del state["norm.bias"]
    state["mask_token"] = torch.zeros(1)
    report = load_weights(make(), state)
    assert report.missing == report.missing_backbone == ["norm.bias"]
    assert report.unexpected == ["mask_token"]
    assert "missing 1: norm.bias" in caplog.text


MISFITS: dict[str, tuple[Any, Any, str]] = {
    "another family": (
        lambda: make("swin_t"),
        make,
        r"Swin of 3 blocks, width 12; the model is a ViT of 2 blocks, width 24",
    ),
    "a ConvNet": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), make, r"Nothing in the checkpoint fits: it is an unknown"),
    "another depth": (lambda: make(depth=3), make, r"ViT of 3 blocks.*ViT of 2 blocks.*Blocks in one only: blocks.2"),
    "another width": (
        lambda: make(embed_dim=48),
        make,
        r"another architecture.*Shapes differ in .*cls_token is \(1, 1, 48\)",
    ),
    "CaiT in ViT": (lambda: make("cait_s24"), make, r"another architecture: it is a CaiT"),
    "other parts": (lambda: make(qk_norm=True), make, r"Parts of a block in one only: attn.k_norm"),
    "attnscale in plain": (lambda: make(attnscale=True), make, r"trained with attnscale .*attnscale=True"),
    "featscale in attnscale": (
        lambda: make(featscale=True),
        lambda: make(attnscale=True),
        r"trained with featscale .*featscale=True",
    ),
    "another patch": (lambda: make(patch_size=8), make, r"patch_embed.proj.weight is \(24, 3, 8, 8\)"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_refuses_what_does_not_fit_and_leaves_the_model_alone(case: str, tmp_path: Path) -> None:
    source, model, message = MISFITS[case]
    torch.save(source().state_dict(), tmp_path / "misfit.pt")
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(target, tmp_path / "misfit.pt")
    assert "misfit.pt" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


class _Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_refuses_bad_files(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    torch.save({"model": make().state_dict(), "args": _Dangerous(trap)}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"trap\.pt.*refused"):
        load_weights(make(), tmp_path / "trap.pt")
    assert not trap.exists()

    torch.save(make().state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.pt.*truncated"):
        load_weights(make(), tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"nowhere\.pt"):
        load_weights(make(), tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match=r"no state dict.*found epoch"):
        load_weights(make(), {"epoch": 3})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a dict of tensors, found a list"):
        load_weights(make(), tmp_path / "list.pt")
