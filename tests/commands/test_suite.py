"""eval.py suite=all, dataset=c, metric=knn|linear and calibration=true: tables, files, and clear refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import eval as evaluation_command
import vitaos
from tests.commands.conftest import Run
from vitaos import cli
from vitaos.assembly.imagenet import _synsets
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.data.corruptions import ALEXNET_ERRORS, CELLS


def evaluate(*overrides: str) -> None:
    arguments = ["device=cpu", *overrides]
    evaluation_command.main(cli.compose(arguments, config_name="eval", schema=EVAL_SCHEMA))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each of ImageNet's classes under the names of its validation images, and the relatives as links."""
    root = tmp_path_factory.mktemp("imagenet")
    for index, name in enumerate(_synsets("imagenet")):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (index % 256, 3 * index % 256, 90)).save(
            root / "val" / name / f"ILSVRC2012_val_{index + 1:08d}.png"
        )
        (root / "v2").mkdir(exist_ok=True)
        (root / "v2" / str(index)).symlink_to(root / "val" / name)
    for dataset in ("a", "r"):
        (root / dataset).mkdir()
        for name in _synsets(f"imagenet_{dataset}"):
            (root / dataset / name).symlink_to(root / "val" / name)
    return root


def test_every_dataset_in_one_table(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape: dict[str, Any] = {"depth": 1, "img_size": 8, "patch_size": 8, "embed_dim": 16, "num_heads": 1}
    torch.save({"model": vitaos.create_model("deit_ti12", **shape).state_dict()}, tmp_path / "model.pth")
    keywords = [f"model.keywords.{key}={value}" for key, value in shape.items() if key not in ("depth", "img_size")]
    model = [f"checkpoint={tmp_path / 'model.pth'}", "model=deit_ti12", "depth=1", "img_size=8", *keywords]
    roots = {"val": "val", "v2": "v2", "a": "a", "r": "r", "sketch": "val"}
    given = "{" + ", ".join(f"{name}: {imagenet / folder}" for name, folder in roots.items()) + "}"
    evaluate(*model, "suite=all", f"data.roots={given}", "data.workers=0", "batch_size=500", "eval_crop=1")
    folder = tmp_path / "model_evaluation"
    found = read(folder, "imagenet-suite")
    rows = {row["dataset"]: row for row in found["rows"]}
    assert {name: (row["images"], row["classes"]) for name, row in rows.items()} == {
        "val": (1000, 1000),
        "real": (rows["real"]["images"], 1000),
        "v2": (1000, 1000),
        "a": (200, 200),
        "r": (200, 200),
        "sketch": (1000, 1000),
    }
    assert 800 < rows["real"]["images"] <= 1000  # those that have labels
    assert rows["v2"]["top1"] == rows["val"]["top1"] == rows["sketch"]["top1"]
    assert found["absent"] == {"c": "no folder in data.roots"}
    shown = capsys.readouterr().out
    assert "sketch" in shown
    assert "not judged on c" in shown
    table = list(csv.DictReader((folder / "imagenet-suite.csv").open()))
    assert [row["dataset"] for row in table] == list(rows)
    alone = read(folder, "imagenet-a")
    assert (alone["count"], alone["top1"]) == (200, rows["a"]["top1"])
    evaluate(*model, "dataset=a", "data=imagenet", f"data.val={imagenet / 'a'}", "data.workers=0", "eval_crop=1")
    assert read(folder, "imagenet-a")["correct1"] == alone["correct1"]
    for word, part in [("v3", "no such dataset"), ("v2", "nothing is there")]:
        with pytest.raises(ValueError, match=rf"data\.roots\.{word}.*{part}"):
            evaluate(*model, "suite=all", f"data.roots={{{word}: {tmp_path / 'gone'}}}")
    with pytest.raises(ValueError, match=r"data\.roots\.r: .*expected its 200 classes, found 1000"):
        evaluate(*model, "suite=all", f"data.roots={{r: {imagenet / 'val'}}}")


@pytest.fixture
def corrupted(digits_root: Path, run: Run, tmp_path: Path) -> Path:
    """ImageNet-C's folders with two digits of each class, the same everywhere; a run that knows digits is in a/."""
    assert run("name=a", "recipe.ema_decay=null") == 0
    (source,) = digits_root.rglob("val")
    for folder in source.iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:2]:
            (tmp_path / "few" / folder.name / file.name).symlink_to(file)
    for name, severity in CELLS:
        (tmp_path / "c" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name / str(severity)).symlink_to(tmp_path / "few")
    return tmp_path


def test_imagenet_c_from_its_folders(corrupted: Path) -> None:
    out = [f"checkpoint={corrupted / 'a'}", "data=imagefolder", "data.workers=0", f"out={corrupted / 'e'}"]
    evaluate(*out, f"data.val={corrupted / 'few'}", "eval_crop=1")
    evaluate(*out, f"data.val={corrupted / 'c'}", "dataset=c")
    found, clean = read(corrupted / "e", "imagefolder-c"), read(corrupted / "e", "imagefolder-val")
    assert (found["count"], found["correct1"]) == (75 * 20, 75 * clean["correct1"])
    expected = sum((100 - clean["top1"]) / error for error in ALEXNET_ERRORS.values()) / 15
    assert found["mce"] == pytest.approx(expected)
    assert len(list(csv.DictReader((corrupted / "e" / "imagefolder-c.csv").open()))) == 75
    (corrupted / "c" / "fog" / "3").unlink()
    with pytest.raises(ValueError, match=r"missing: fog/3"):
        evaluate(*out, f"data.val={corrupted / 'c'}", "dataset=c")


@pytest.mark.long
def test_imagenet_c_on_the_fly(corrupted: Path) -> None:
    words = [f"checkpoint={corrupted / 'a'}", f"out={corrupted / 'e'}", "suite=all", "corrupt=true", "data.workers=0"]
    for _ in range(2):
        evaluate(*words, f"data.roots={{val: {corrupted / 'few'}}}")
        found = read(corrupted / "e", "imagenet-suite")
        assert [(row["dataset"], row["images"]) for row in found["rows"]] == [("val", 20), ("c", 1500)]
    assert found["rows"][1]["mce"] > 0


def test_features_and_confidence_of_a_run(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "recipe.ema_decay=null") == 0
    model, folder = f"checkpoint={tmp_path / 'a'}", tmp_path / "a" / "evaluation"
    evaluate(model, "metric=knn", "k=[5,2000]", "calibration=true")
    found = read(folder, "digits-val-knn")
    assert (found["count"], found["k"], list(found["by_k"]), found["temperature"]) == (360, 5, ["5", "2000"], 0.07)
    assert found["by_k"]["5"]["top1"] == found["top1"]
    assert found["calibration"]["images"] == 360
    assert (folder / "digits-val-knn-reliability-raw.png").stat().st_size > 5000
    assert len(list(csv.DictReader((folder / "digits-val-knn-worst-raw.csv").open()))) == 10
    matrix = [
        list(map(int, row[1:]))
        for row in csv.reader((folder / "digits-val-knn-confusion-raw.csv").open())
        if row[0].isdigit()
    ]
    assert sum(map(sum, matrix)) == 360
    assert sum(row[index] for index, row in enumerate(matrix)) == found["correct1"]
    evaluate(model, "metric=linear", "predictions=false")
    assert read(folder, "digits-val-linear")["top1"] > found["by_k"]["2000"]["top1"]
    with pytest.raises(ValueError, match="at least one number"):
        evaluate(model, "metric=knn", "k=[]")
    with pytest.raises(ValueError, match=r"k=\[0\]: out of range"):
        cli.compose(["k=0"], config_name="eval", schema=EVAL_SCHEMA)


def test_a_missing_package_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"calibration=true needs the package torchmetrics.*vitaos\[judge\]"):
        evaluate("checkpoint=nowhere", "calibration=true")
