"""The package as others get it: a wheel, installed elsewhere, used from a folder that holds nothing of the clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitaos.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["data=digits", "depth=2", "batch_size=32", "steps=2", "device=cpu", "data.loader=folder", "data.workers=0"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty target folder into which the wheel of a copy of the tracked files was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    clone, target = folder / "clone", folder / "target"
    for top in ("vitaos", "configs", "scripts"):
        names = (path for path in (ROOT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        for path in names:
            copy = clone / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "eval.py"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", folder, clone], check=True)
    (wheel,) = folder.glob("vitaos-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def vitaos(*arguments: str, installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The installed command; ``torchrun`` as the first argument starts it as a module, by torch's launcher."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "-m", "vitaos"]
    start = (
        [*launcher, *arguments[1:]] if arguments[0] == "torchrun" else [str(installed / "bin" / "vitaos"), *arguments]
    )
    return subprocess.run(
        [sys.executable, *start],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_wheel_trains_evaluates_and_explains_itself_elsewhere(installed: Path, tmp_path: Path) -> None:
    assert (installed / "vitaos" / "py.typed").is_file()
    words = ["torchrun", "train", *SMALL, "data.root=d", "name=first", "attnscale=true"]
    done = vitaos(*words, installed=installed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "metrics.jsonl").read_text().count("\n") >= 1
    done = vitaos("eval", "checkpoint=runs/first", "device=cpu", installed=installed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "images 360" in done.stdout
    done = vitaos("export", "checkpoint=runs/first", "out=given", "device=cpu", installed=installed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "given").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert f"{installed}/vitaos/entry/train.py" in (tmp_path / "runs" / "first" / "environment.json").read_text()


def test_every_command_has_its_file_and_others_are_refused(installed: Path, tmp_path: Path) -> None:
    for path in COMMANDS.values():
        assert (installed / "vitaos" / "entry" / path).is_file()
    wrong = vitaos("trian", installed=installed, folder=tmp_path)
    assert wrong.returncode == 2
    assert "there is no command 'trian'" in wrong.stderr


def test_own_configuration_files_come_first(installed: Path, tmp_path: Path) -> None:
    """``--config-dir`` before ``configs/`` of the current folder, both before the wheel's."""
    for folder, tokens in (("mine", 3), ("configs", 5)):
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "model" / "deit_s12.yaml").write_text(
            f"name: deit_s12\nkeywords: {{reg_tokens: {tokens}}}\n"
        )
    (tmp_path / "configs" / "experiment").mkdir()
    (tmp_path / "configs" / "experiment" / "deeper.yaml").write_text("# @package _global_\ndepth: 7\n")
    overrides = ["--config-dir", "mine", "model=deit_s12", "experiment=deeper", "--cfg", "job"]
    done = vitaos("train", *overrides, installed=installed, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "depth: 7" in done.stdout
    assert "reg_tokens: 3" in done.stdout
