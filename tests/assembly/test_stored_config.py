"""A stored configuration is data: nothing in it is resolved, opened or written, and errors name file and key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import eval as evaluation_command
from tests.assembly.conftest import Save
from vitaos import cli
from vitaos.assembly.fingerprint import run_name
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.assembly.stored_config import restore


def evaluate(*overrides: str) -> None:
    arguments = ["device=cpu", "predictions=false", *overrides]
    evaluation_command.main(cli.compose(arguments, config_name="eval", schema=EVAL_SCHEMA))


@pytest.mark.parametrize("name", ["{}/outside", "../../target/x", "a\x1b[2Jb"])
def test_a_stored_name_leads_nowhere(name: str, save_changed: Save, tmp_path: Path) -> None:
    outside = tmp_path / "target"
    outside.mkdir()
    path = save_changed("config.data.name", name.format(outside))
    out = tmp_path / "in" / "out"
    evaluate(f"checkpoint={path}", f"out={out}")
    assert not list(outside.iterdir())
    assert {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*")} == {"in", "changed.pt", "target"}
    (summary,) = out.glob("*.json")
    assert json.loads(summary.read_text())["count"] == 360
    assert summary.name.isprintable()


def test_a_name_of_data_is_one_part_of_a_runs_name(whole_checkpoint: dict[str, Any]) -> None:
    stored = whole_checkpoint["config"]
    config = restore(stored | {"data": stored["data"] | {"name": "../../x"}, "name": None}, "a file")
    assert "/" not in run_name(config, 1)


@pytest.mark.parametrize("key", ["config.data.name", "config.data.root", "config.model.name", "config.logger.project"])
def test_no_interpolation_is_resolved(
    key: str, save_changed: Save, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_OF_THIS_TEST", "hidden-value")
    path = save_changed(key, "${oc.env:SECRET_OF_THIS_TEST}")
    with pytest.raises(ValueError, match=rf"changed\.pt.*{key.removeprefix('config.')}.*not resolved") as refusal:
        evaluate(f"checkpoint={path}")
    assert "hidden-value" not in str(refusal.value) + capsys.readouterr().out


@pytest.mark.parametrize("key", ["embed_dim", "num_heads", "depth", "mlp_ratio", "reg_tokens"])
def test_a_model_far_larger_than_its_weights_is_not_built(key: str, save_changed: Save) -> None:
    path = save_changed("config.model.keywords", {key: 900_000})
    with pytest.raises(ValueError, match=rf"changed\.pt: its model cannot be built.*({key}|values, its weights have)"):
        evaluate(f"checkpoint={path}")


@pytest.mark.parametrize("dataset", ["v2", "a", "r", "sketch"])
def test_a_wrong_path_of_a_relative_of_imagenet_is_told_its_layout(dataset: str, save_changed: Save) -> None:
    path = save_changed("config.seed", 0)
    with pytest.raises(ValueError, match=rf"(?s)nowhere.*dataset={dataset} reads.*data\.val=") as refusal:
        evaluate(f"checkpoint={path}", "data=imagenet", "data.val=nowhere", f"dataset={dataset}")
    assert "prepare_imagenet" not in str(refusal.value)


def test_missing_digits_are_not_written_where_a_checkpoint_says(save_changed: Save, tmp_path: Path) -> None:
    path = save_changed("config.data.root", str(tmp_path / "made"))
    with pytest.raises(ValueError, match=r"data=digits data\.root=DIR"):
        evaluate(f"checkpoint={path}")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "keyword", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]
)
def test_a_stored_keyword_opens_no_file(keyword: str, save_changed: Save, tmp_path: Path) -> None:
    values = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "w.pth")}}
    path = save_changed(f"config.model.keywords.{keyword}", values.get(keyword, str(tmp_path / "w.pth")))
    with pytest.raises(ValueError, match=rf"changed\.pt: its model cannot be built.*{keyword}|downloaded"):
        evaluate(f"checkpoint={path}")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("config", None, "NoneType, expected a mapping"),
        ("config", [1], "list, expected a mapping"),
        ("config.data", "digits", "data='digits': expected a mapping"),
        ("config.data", None, "data=None: expected a mapping"),
        ("config.data.mean", torch.zeros(3), "data.mean: a Tensor is no plain value"),
        ("config.data.img_size", "large", "data.img_size"),
        ("config.model", {"name": "deit_ti12", 3: 4}, "model.3"),
        ("config.recipe.warp", 1, "recipe.warp: unknown key"),
        ("config.model.keywords.norm_layer", "x", "norm_layer|cannot be built"),
        ("config.model.keywords.num_classes", 3, "num_classes"),
        ("class_names", "0123456789", "class_names"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_key(key: str, value: Any, complaint: str, save_changed: Save) -> None:
    path = save_changed(key, value)
    with pytest.raises(ValueError, match=rf"changed\.pt.*({complaint})"):
        evaluate(f"checkpoint={path}")


def test_a_configuration_nested_without_end_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    with pytest.raises(ValueError, match="nested"):
        restore(loop, "a file")
