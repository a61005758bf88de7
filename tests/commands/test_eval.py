"""eval.py: the right model from every kind of checkpoint, exact counts, files, and clear refusals."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eval as evaluation_command
import vitaos
from tests.commands.conftest import Run
from vitaos import cli
from vitaos.assembly.judge import zero_learned_values
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.batch import Batch
from vitaos.data.folder.loader import FolderEvalLoader
from vitaos.metrics_reader import read_metrics


def evaluate(*overrides: str) -> None:
    arguments = ["device=cpu", *overrides]
    evaluation_command.main(cli.compose(arguments, config_name="eval", schema=EVAL_SCHEMA))


def result(folder: Path, name: str = "digits-val") -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_run_is_evaluated_as_it_was_in_training(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true", "depth=3") == 0
    evaluate(f"checkpoint={tmp_path / 'a'}")
    found = result(tmp_path / "a" / "evaluation")
    (line,) = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert found["techniques"] == {"attnscale": True}
    assert (found["count"], found["depth"]) == (360, 3)
    assert found["weights"]["raw"]["top1"] == pytest.approx(line["val_top1"], abs=0)
    assert found["weights"]["ema"]["top1"] == pytest.approx(line["ema_top1"], abs=0)
    assert found["weights"]["raw"]["loss"] == pytest.approx(line["val_loss"], rel=1e-6)
    rows = list(csv.DictReader((tmp_path / "a" / "evaluation" / "digits-val-classes.csv").open()))
    assert sum(int(row["count"]) for row in rows) == 360
    right = sum(float(row["raw_top1"]) * int(row["count"]) / 100 for row in rows)
    assert right == pytest.approx(found["weights"]["raw"]["correct1"], abs=0.1)
    with np.load(tmp_path / "a" / "evaluation" / "digits-val-predictions.npz") as by_image:
        assert by_image["target"].shape == (360,)
        for weights in ("raw", "ema"):
            assert by_image[f"{weights}_correct"].sum() == found["weights"][weights]["correct1"]
            right_answers = by_image[f"{weights}_predicted"] == by_image["target"]
            assert (right_answers == by_image[f"{weights}_correct"]).all()


def test_the_weights_and_their_average_cost_one_pass_over_the_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    read_all = FolderEvalLoader.__iter__

    def counted(loader: FolderEvalLoader) -> Iterator[Batch]:
        passes.append(loader.num_images)
        return read_all(loader)

    monkeypatch.setattr(FolderEvalLoader, "__iter__", counted)
    assert run("name=a") == 0
    assert passes == [360]  # the evaluation after its epoch
    model, folder = f"checkpoint={tmp_path / 'a'}", tmp_path / "a" / "evaluation"
    for metric, stem, parts in [("classifier", "digits-val", [360]), ("knn", "digits-val-knn", [1437, 360])]:
        passes.clear()
        evaluate(model, f"metric={metric}")
        assert passes == parts
        together = result(folder, stem)["weights"]
        for weights in ("raw", "ema"):
            evaluate(model, f"metric={metric}", f"weights={weights}")
            assert result(folder, stem)["weights"] == {weights: together[weights]}


def test_learned_values_are_taken_away_on_request(run: Run, tmp_path: Path) -> None:
    shape = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 4, "num_classes": 10}
    plain, scaled = (
        vitaos.create_model("deit_ti12", attnscale=on, featscale=on, **shape).eval() for on in (False, True)
    )
    scaled.load_state_dict(plain.state_dict(), strict=False)
    for name, parameter in scaled.named_parameters():
        if "_scale" in name:
            torch.nn.init.normal_(parameter)
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(scaled(images), plain(images))
    zero_learned_values(scaled)
    assert torch.equal(scaled(images), plain(images))
    assert run("name=a", "attnscale=true") == 0
    evaluate(f"checkpoint={tmp_path / 'a'}", "zero_learned=true", "weights=raw")
    found = result(tmp_path / "a" / "evaluation", "digits-val-zeroed")
    assert (found["zero_learned"], found["count"]) == (True, 360)
    with pytest.raises(ValueError, match="neither AttnScale nor FeatScale"):
        zero_learned_values(plain)


@pytest.mark.parametrize("batch_size", [1000, 7])
def test_counts_do_not_depend_on_the_batch(run: Run, tmp_path: Path, batch_size: int) -> None:
    assert run("name=a") == 0
    evaluate(f"checkpoint={tmp_path / 'a'}", f"batch_size={batch_size}", f"out={tmp_path / 'e'}", "predictions=false")
    assert not list((tmp_path / "e").glob("*.npz"))
    (line,) = read_metrics(tmp_path / "a" / "metrics.jsonl")
    found = result(tmp_path / "e")
    assert (found["count"], found["top1"]) == (360, line["val_top1"])


def test_a_foreign_file_needs_to_be_told_what_it_is(digits_root: Path, run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0  # writes the digits
    path = tmp_path / "foreign.pth"
    model = vitaos.create_model(
        "deit_ti12", depth=2, img_size=32, patch_size=8, embed_dim=64, num_heads=4, num_classes=10
    )
    torch.save({"model": model.state_dict()}, path)
    data = ["data=digits", f"data.root={digits_root}", "data.loader=folder", "data.workers=0"]
    evaluate(f"checkpoint={path}", "depth=2", *data)
    assert result(tmp_path / "foreign_evaluation")["count"] == 360
    with pytest.raises(ValueError, match="model=NAME"):
        evaluate(f"checkpoint={path}")
    with pytest.raises(ValueError, match=r"foreign\.pth: .*(depth|blocks|fit|architecture)"):
        evaluate(f"checkpoint={path}", "model=cait_xxs24", *data)


def test_other_classes_and_missing_weights_are_refused(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "recipe.ema_decay=null") == 0
    with pytest.raises(ValueError, match="no running average"):
        evaluate(f"checkpoint={tmp_path / 'a'}", "weights=ema")
    for name in ("one", "two", "three"):
        folder = tmp_path / "other" / "val" / name
        folder.mkdir(parents=True)
        from PIL import Image  # noqa: PLC0415

        Image.new("RGB", (40, 32)).save(folder / "image.png")
    with pytest.raises(ValueError, match="trained on 10 classes, the images are of 3"):
        evaluate(f"checkpoint={tmp_path / 'a'}", "data=imagefolder", f"data.root={tmp_path / 'other'}")


def test_a_damaged_or_missing_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0
    whole = (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes()
    torn = tmp_path / "torn.pt"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"torn\.pt"):
        evaluate(f"checkpoint={torn}")
    with pytest.raises(ValueError, match="nothing"):
        evaluate(f"checkpoint={tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="checkpoint=RUN_OR_FILE"):
        evaluate()


def test_robustness_is_tested_and_drawn(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true") == 0
    checkpoint = f"checkpoint={tmp_path / 'a'}"
    evaluate(checkpoint, "robustness=all", "robustness_images=12", "predictions=false")
    folder = tmp_path / "a" / "evaluation"
    for test in ("shift", "patches", "temperature", "heads", "distance", "registers"):
        found = result(folder, f"digits-val-robustness-{test}")
        assert (found["test"], found["images"], found["techniques"]) == (test, 12, {"attnscale": True})
        rows = list(csv.DictReader((folder / f"digits-val-robustness-{test}.csv").open()))
        assert len(rows) == len(found["rows"]) > 0
        assert (folder / f"digits-val-robustness-{test}.png").read_bytes().startswith(b"\x89PNG")
    by_image = list(csv.DictReader((folder / "digits-val-robustness-patches-images.csv").open()))
    assert len(by_image) == 4 * 12
    unshifted = [row["top1"] for row in result(folder, "digits-val-robustness-shift")["rows"] if row["shift"] == 0]
    assert unshifted[0] == result(folder, "digits-val-robustness-patches")["clean_top1"]


def test_images_can_be_anchored(run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0
    evaluate(f"checkpoint={tmp_path / 'a'}", "polyphase_anchoring=true", "predictions=false", "weights=raw")
    evaluate(f"checkpoint={tmp_path / 'a'}", "predictions=false", "weights=raw")
    anchored = result(tmp_path / "a" / "evaluation", "digits-val-anchored")
    assert anchored["polyphase_anchoring"] is True
    assert anchored["loss"] != result(tmp_path / "a" / "evaluation")["loss"]
