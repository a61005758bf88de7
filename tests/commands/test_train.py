"""train.py: what a run leaves behind, goes on from, and refuses."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch

import vitaos
from tests.commands.conftest import Run, compose_digits
from vitaos.analysis.monitor import Monitor
from vitaos.assembly import builders, observing
from vitaos.metrics_reader import read_metrics
from vitaos.runtime.world import World


def test_a_run_leaves_everything_that_the_design_promises(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "attnscale=true", "featscale=true") == 0
    folder = tmp_path / "a"
    (line,) = read_metrics(folder / "metrics.jsonl")
    for key in (
        "epoch",
        "step",
        "lr",
        "train_loss",
        "val_top1",
        "val_top5",
        "val_loss",
        "ema_top1",
        "images_per_s",
        "tflops",
        "memory_gb",
    ):
        assert isinstance(line[key], (int, float)), key
    assert (line["epoch"], line["step"]) == (0, 4)
    assert len(line["attn_scale_by_block"]) == 2
    for name in ("config.yaml", "environment.json", "log.txt", "checkpoints/last.pt", "checkpoints/best.pt"):
        assert (folder / name).stat().st_size > 0
    assert "attnscale: true" in (folder / "config.yaml").read_text()
    session = json.loads((folder / "environment.json").read_text())["sessions"][0]
    assert session["seed"] == 0
    assert session["packages"]["torch"] == torch.__version__.split("+")[0] or session["packages"]["torch"]
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert {"format", "model", "ema", "optimizer", "loss_scaler", "progress", "config"} <= set(last)
    model = vitaos.create_model(
        "deit_ti12", depth=2, img_size=32, patch_size=8, embed_dim=64, num_heads=4, num_classes=10,
        attnscale=True, featscale=True,
    )  # fmt: skip
    model.load_state_dict(last["model"])
    model.load_state_dict(last["ema"])


def test_the_same_command_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    assert run("name=whole", "steps=6", "epochs=2") == 0
    assert run("name=parts", "steps=3", "epochs=2") == 0
    assert run("name=parts", "steps=6", "epochs=2") == 0
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])
    assert [line["step"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [6], "one line an epoch"
    assert len(json.loads((tmp_path / "parts" / "environment.json").read_text())["sessions"]) == 2


def test_a_finished_run_goes_on_telling_what_it_trained(run: Run, tmp_path: Path) -> None:
    assert run("name=done", "epochs=2", "steps=null") == 0
    told = (tmp_path / "done" / "config.yaml").read_text()
    assert run("name=done", "epochs=1", "steps=null") == 0
    assert (tmp_path / "done" / "config.yaml").read_text() == told
    sessions = json.loads((tmp_path / "done" / "environment.json").read_text())["sessions"]
    assert [session.get("epochs") for session in sessions] == [2, None]


def test_never_overwrites_and_never_goes_on_as_another(run: Run, tmp_path: Path) -> None:
    assert run("name=a") == 0
    before = (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(ValueError, match="resume=never"):
        run("name=a", "resume=never")
    with pytest.raises(ValueError, match="attnscale: False there, True here"):
        run("name=a", "attnscale=true")
    assert (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes() == before


def test_fine_tuning_starts_from_given_weights(run: Run, tmp_path: Path) -> None:
    assert run("name=plain") == 0
    source = tmp_path / "plain" / "checkpoints" / "last.pt"
    assert run("name=tuned", f"init={source}", "featscale=true", "steps=1", "recipe.lr=0", "recipe.warmup_lr=0",
               "recipe.min_lr=0") == 0  # fmt: skip
    before, after = (torch.load(path, weights_only=True)["model"] for path in (
        source, tmp_path / "tuned" / "checkpoints" / "last.pt"))  # fmt: skip
    assert torch.equal(before["patch_embed.proj.weight"], after["patch_embed.proj.weight"])
    assert torch.equal(before["head.weight"], after["head.weight"]), "the classes are as many"
    assert "blocks.0.feat_scale_dc" in after


def test_what_data_cannot_give_is_reported(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 2000"):
        run("batch_size=2000")
    with pytest.raises(ValueError, match=str(tmp_path / "nowhere")):
        run("data=imagefolder", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="prepare_imagenet"):
        run("data=imagenet", f"data.root={tmp_path / 'nowhere'}")
    assert not list(tmp_path.iterdir()), "a refused run leaves no folder"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet10t", "depth=null", "attnscale=true"], "Techniques cannot be attached"),
        (["model=swin_t", "depth=null", "recipe.pos_drop=0.2"], r"recipe\.pos_drop"),
        (["model.keywords.num_heads=5"], "num_heads=5"),
        (["model.name=deit_s13"], "did you mean deit_s12"),
        (["optimizer.name=adamm"], "optimizer='adamm' is unknown"),
    ],
)
def test_what_cannot_be_built_is_refused_before_data_is_touched(
    run: Run, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(*overrides, f"data.root={tmp_path / 'untouched'}")
    assert not list(tmp_path.iterdir())


def test_a_wrong_resume_names_the_choices(run: Run) -> None:
    with pytest.raises(ValueError, match="resume=sometimes: it is auto, never, or"):
        run("resume=sometimes")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_where_there_is_none(run: Run) -> None:
    with pytest.raises(ValueError, match="device=cuda"):
        run("device=cuda")


def test_the_monitor_measures_held_out_images(run: Run, tmp_path: Path) -> None:
    assert run("name=a", "monitor.every=1") == 0
    (line,) = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert len(line["token_similarity_by_block"]) == 3
    assert 0 < line["hf_dc_ratio"] < 100


def test_the_first_line_holds_what_the_monitor_sees_before_training(run: Run, tmp_path: Path) -> None:
    overrides = ["monitor.every=1", "monitor.images=10", "epochs=2", "recipe.warmup_epochs=0"]
    assert run("name=whole", *overrides, "steps=44") == 0
    first, second = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert len(first["initial_token_similarity_by_block"]) == len(first["initial_hf_dc_ratio_by_block"]) == 3
    assert first["initial_hf_dc_ratio"] != first["hf_dc_ratio"], "22 steps have changed the weights"
    assert not any(key.startswith("initial_") for key in second)
    run("name=halted", *overrides, "steps=3", "checkpoint_every=3")
    assert run("name=halted", *overrides, "steps=44", "checkpoint_every=30") == 0
    resumed = read_metrics(tmp_path / "halted" / "metrics.jsonl")[0]
    assert {key: resumed[key] for key in first if key.startswith("initial_")} == {
        key: value for key, value in first.items() if key.startswith("initial_")
    }


def test_the_monitor_looks_at_the_same_images_of_all_classes(
    digits_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Monitor, "__call__", lambda _self, _model, images: seen.append(images) or {"seen": 1.0})
    config = compose_digits(digits_root, "monitor.every=1")
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    with closing(builders.build_loaders(config, world)) as loaders:
        observe = observing.build_observe_fn(config, loaders, world)
        observe(torch.nn.Identity(), 0, False)
        observe(torch.nn.Identity(), 1, False)
        config.monitor.every = 2
        rarely = observing.build_observe_fn(config, loaders, world)
        assert [bool(rarely(torch.nn.Identity(), epoch, epoch == 2)) for epoch in (0, 1, 2)] == [False, True, True]
        held_out = torch.cat([batch.images for batch in loaders.val])
        labels = torch.cat([batch.targets for batch in loaders.val])
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0]) == 3 * 1437 // 100, "a forward pass takes a third of a training step: 1% of 1,437 images"
    every_eighth = torch.arange(43) * 360 // 43
    assert torch.equal(seen[0], builders.build_normalize(config.data)(held_out[every_eighth]))
    assert len(labels[every_eighth].unique()) == 10


def test_a_wrong_augmentation_is_refused_before_the_data(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rand-m9-mxtd"):
        run("name=a", "recipe.randaugment=rand-m9-mxtd0.5", "data=imagefolder", f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match=r"model\.keywords"):
        run("name=a", "model.keywords.embed_dim=abc")
    assert not (tmp_path / "a").exists()
