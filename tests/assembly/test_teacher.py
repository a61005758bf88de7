"""Distillation by whole runs: teachers of every source, what is refused, and that it resumes to the last bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

import train
from tests.commands.conftest import compose_digits
from vitaos import config_check
from vitaos.assembly import builders
from vitaos.assembly.teacher import build_teacher
from vitaos.config import ConfigError, TeacherConfig, TrainConfig
from vitaos.data.folder.digits import CLASS_NAMES
from vitaos.engine.distillation import Teacher
from vitaos.runtime.world import World
from vitaos.weights.pretrained import save_pretrained

CPU = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
HARD = "recipe.distillation=hard"
Find = Callable[..., Teacher]


@pytest.fixture(scope="module")
def config(digits_root: Path) -> TrainConfig:
    return compose_digits(digits_root, "depth=1", HARD, "teacher.source=given below")


@pytest.fixture
def find(config: TrainConfig) -> Find:
    """The teacher that keys of ``teacher`` mean."""

    def build(**keys: Any) -> Teacher:
        found = build_teacher(replace(config, teacher=TeacherConfig(**keys)), CPU, 10, CLASS_NAMES)
        assert found is not None
        return found

    return build


@pytest.fixture(scope="module")
def convnet() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=10).eval()


def test_a_run_is_a_teacher_with_its_own_images(
    find: Find, whole_checkpoint: dict[str, Any], config: TrainConfig, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "checkpoints" / "step-00000002.pt"
    path.parent.mkdir(parents=True)
    data = {**whole_checkpoint["config"]["data"], "mean": [0.1, 0.2, 0.3]}
    torch.save(whole_checkpoint | {"config": {**whole_checkpoint["config"], "data": data}}, path)
    for source in (path, tmp_path / "run"):
        teacher = find(source=str(source))
        assert teacher.identity["mean"] == [0.1, 0.2, 0.3]
        assert not teacher.model.training
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    model = builders.build_model(replace(config, seed=5), 10).eval()
    model.load_state_dict(whole_checkpoint["model"])
    pixels = torch.rand(2, 3, 32, 32)
    mean, std, own = (torch.tensor(values).view(-1, 1, 1) for values in (data["mean"], data["std"], config.data.mean))
    seen = (pixels - own) / std
    with torch.no_grad():
        torch.testing.assert_close(teacher(seen), model((pixels - mean) / std), atol=1e-5, rtol=1e-4)


def test_files_folders_and_names_of_timm(
    find: Find, convnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.pth"
    torch.save({"state_dict": convnet.state_dict()}, file)
    save_pretrained(convnet, tmp_path / "folder", class_names=CLASS_NAMES)
    images = torch.randn(2, 3, 32, 32)
    given = find(source=str(file), model="test_resnet", img_size=48)
    folder = find(source=str(tmp_path / "folder"), img_size=48)
    assert given.prepare(images).shape == (2, 3, 48, 48)
    assert torch.equal(given(images), folder(images))
    assert given.identity["weights"] == folder.identity["weights"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    (tmp_path / "folder").rename(repository / "snapshots" / ("a" * 40))
    own = find(source="test_resnet.r160_in1k")
    assert own.img_size == (160, 160)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "nowhere"}, "teacher.source=nowhere: no such file or folder, nor a name"),
        ({"source": "{file}"}, "does not say which model it is of: add teacher.model=NAME"),
        ({"source": "{other}", "model": "test_resnet"}, "the teacher answers 7 classes, the data have 10"),
        ({"source": "{file}", "model": "test_resnet", "weights": "ema"}, "use teacher.weights=raw"),
        ({"source": "{file}", "model": "test_vit"}, "teacher.source=.*Nothing in the checkpoint"),
        ({"source": "{folder}"}, "its classes are the data's in another order"),
    ],
)
def test_what_is_no_teacher(find: Find, convnet: nn.Module, tmp_path: Path, keys: dict[str, str], message: str) -> None:
    torch.save(convnet.state_dict(), tmp_path / "net.pth")
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "other.pth")
    save_pretrained(convnet, tmp_path / "folder", class_names=CLASS_NAMES[::-1])
    places = {"file": tmp_path / "net.pth", "other": tmp_path / "other.pth", "folder": tmp_path / "folder"}
    with pytest.raises(ValueError, match=message):
        find(**{key: value.format(**places) for key, value in keys.items()})


def test_half_a_distillation_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="soft without a teacher"):
        config_check.check(OmegaConf.create({"recipe": {"distillation": "soft"}}), TrainConfig)
    with pytest.raises(ConfigError, match="nothing is learned from it"):
        config_check.check(OmegaConf.create({"teacher": {"source": "x"}}), TrainConfig)
    token = replace(config.recipe, distillation_token="distillation")
    with pytest.raises(ValueError, match="VisionTransformer has no distillation token"):
        train.main(replace(config, recipe=token, out=str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


STUDENT = ["model=deit_tiny_distilled_patch16_224", *(f"model.keywords.{word}" for word in
           ("patch_size=8", "embed_dim=32", "num_heads=2"))]  # fmt: skip
LEARN = ["depth=1", "recipe.ema_decay=0.9", "augment=timm", "recipe.distillation=soft", "log_every=1"]


def test_a_distilled_run_resumes_to_the_last_bit(digits_root: Path, convnet: nn.Module, tmp_path: Path) -> None:
    for name, seed in (("net", 0), ("another", 1)):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), tmp_path / f"{name}.pth")

    source = f"teacher.source={tmp_path / 'net'}.pth"
    words = [*STUDENT, *LEARN, f"out={tmp_path}", "teacher.model=test_resnet", "teacher.img_size=32", source]
    config = compose_digits(digits_root, *words)

    def run(name: str, steps: int = 4, teacher: str = "net") -> dict[str, Any]:
        learning_from = replace(config.teacher, source=f"{tmp_path / teacher}.pth")
        assert train.main(replace(config, name=name, steps=steps, teacher=learning_from)) == 0
        state: dict[str, Any] = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        return state

    whole, _ = run("whole"), run("parts", steps=2)
    (tmp_path / "net.pth").rename(tmp_path / "moved.pth")
    with pytest.raises(ValueError, match=r"distilled from another teacher \(weights: .* there, .* here\)"):
        run("parts", teacher="another")
    parts = run("parts", teacher="moved")
    for key in ("model", "ema"):
        assert all(torch.equal(value, parts[key][name]) for name, value in whole[key].items())
    assert "dist_token" in whole["model"]
    assert parts["teacher"] == whole["teacher"]
    assert not set(whole["model"]) & {name for name in convnet.state_dict() if "bn" in name}
