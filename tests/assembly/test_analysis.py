"""The analysis of checkpoints by command: whose model, on which images, under which names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitaos import cli
from vitaos.assembly import analysis, builders, fingerprint
from vitaos.assembly.schemas import ANALYZE_SCHEMA, TRAIN_SCHEMA
from vitaos.config import AnalyzeConfig
from vitaos.runtime.world import World

WORLD = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
MODEL = ["model=deit_mini", "depth=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ten classes of two images, every class of its own brightness; as overrides of the command line."""
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        for label in range(10):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (25 * label, 100, 10 * number)).save(folder / f"{number}.png")
    return ["data=imagefolder", f"data.root={root}", "data.img_size=32", "data.workers=0"]


def compose(overrides: list[str]) -> AnalyzeConfig:
    return cli.compose(overrides, config_name="analyze", schema=ANALYZE_SCHEMA)


def write_run(folder: Path, data: list[str], *overrides: str) -> Path:
    """A run folder as training leaves it, with averaged weights that differ from the raw ones."""
    config = cli.compose([*data, *MODEL, *overrides], config_name="train", schema=TRAIN_SCHEMA)
    model = builders.build_model(config, 10)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attn_scale"):
                parameter.fill_(0.25)
    raw = model.state_dict()
    content = {
        "format": "vitaos-1",
        "model": raw,
        "ema": {name: value * 2 if name.endswith("attn_scale") else value for name, value in raw.items()},
        "optimizer": {},
        "loss_scaler": None,
        "progress": {"step": 1},
        "config": fingerprint.to_dict(config),
        "class_names": [f"class{label}" for label in range(10)],
    }
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "last.pt")
    return folder


def test_several_runs_are_analyzed_under_their_names(data: list[str], tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", data)
    scaled = write_run(tmp_path / "scaled", data, "attnscale=true")
    config = compose([f"checkpoint=[{plain},{scaled}]", f"out={tmp_path}/out", "images=20", "batch_size=8"])
    files = analysis.analyze(config, WORLD)
    assert {"overview.png", "token_similarity.png", "learned_scales.png", "numbers.csv", "summary.json"} <= {
        file.name for file in files
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(run["run"], run["images"], run["blocks"]) for run in summary] == [("plain", 20, 2), ("scaled", 20, 2)]
    assert summary[1]["attn_scale"]["mean"] == pytest.approx(0.5), "averaged weights where there are any"
    assert [(run["weights"], run["step"], run["dataset"]) for run in summary] == [("ema", 1, "imagefolder")] * 2


def test_weights_can_be_chosen_and_names_given(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(analysis, "save_figures", lambda *_, **__: [])
    run = write_run(tmp_path / "scaled", data, "attnscale=true")
    overrides = [f"checkpoint={run}", "weights=raw", "labels=[AttnScale]", "images=4", f"out={tmp_path}/out"]
    analysis.analyze(compose(overrides), WORLD)
    (summary,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["run"] == "AttnScale"
    assert summary["attn_scale"]["mean"] == pytest.approx(0.25)
    assert "raw weights at step 1, 4 images of imagefolder" in capsys.readouterr().out
    before = (tmp_path / "out" / "numbers.csv").read_bytes()
    second = analysis.analyze(compose([*overrides, "labels=[again]"]), WORLD)
    assert {file.parent for file in second} == {tmp_path / "out_2"}, "an analysis is not overwritten"
    assert (tmp_path / "out" / "numbers.csv").read_bytes() == before
    with pytest.raises(ValueError, match="expected 1 different labels"):
        analysis.analyze(compose([f"checkpoint={run}", "labels=[a,b]"]), WORLD)


def test_an_untrained_model_is_seen_on_images_of_all_classes(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    means: list[float] = []
    original = analysis.measure

    def listen(model, batches, **keywords):  # noqa: ANN001, ANN202, ANN003  # stands in for measure
        def pass_on():  # noqa: ANN202
            for batch in batches:
                means.extend(batch[:, 0].mean(dim=(1, 2)).tolist())
                yield batch

        return original(model, pass_on(), **keywords)

    monkeypatch.setattr(analysis, "measure", listen)
    monkeypatch.setattr(analysis, "save_figures", lambda *_, **__: [])
    analysis.analyze(compose([*data, *MODEL, "featscale=true", "images=10", f"out={tmp_path}"]), WORLD)
    (summary,) = json.loads((tmp_path / "summary.json").read_text())
    assert summary["run"] == "deit_ti12-d2-featscale-untrained"
    assert len(np.unique(np.round(means, 3))) == 10, "one image of every class, not two of the first five"


def test_nothing_to_analyse_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to analyze"):
        analysis.analyze(compose([]), WORLD)
    with pytest.raises(ValueError, match="nope"):
        analysis.analyze(compose([f"checkpoint={tmp_path}/nope.pt"]), WORLD)


def test_labels_tell_checkpoints_of_one_run_apart() -> None:
    config = compose(["checkpoint=[runs/a,runs/a/checkpoints/best.pt,other/a,x/deit.pth]"])
    labels = analysis._labels(config, analysis._checkpoints(config))
    assert labels == ["a", "a best", "a (2)", "deit"]
