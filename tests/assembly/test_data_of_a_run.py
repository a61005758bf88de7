"""A run knows its data, by its name and by its checkpoint (ranks: tests/engine/test_ranks.py)."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.commands.conftest import compose_digits
from vitaos import cli
from vitaos.assembly import evaluation
from vitaos.assembly.schemas import EVAL_SCHEMA

_WORDS = (
    *("depth=1", "batch_size=8", "steps=1", "data=imagefolder", "data.img_size=32"),
    *("recipe=digits", "model=deit_mini", "precision=fp32"),
)


@pytest.fixture(scope="module")
def images(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight digits each, for training and for evaluation alike."""
    root = tmp_path_factory.mktemp("images")
    (source,) = digits_root.rglob("train")
    for split in ("train", "val"):
        for folder in sorted(source.iterdir())[:2]:
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:8]:
                shutil.copy(file, root / split / folder.name)
    return root


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one unnamed run of one step on them."""
    out = tmp_path_factory.mktemp("runs")
    assert _start(out, images) == 0
    return out


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture
def copy(images: Path, tmp_path: Path) -> Path:
    """A copy of the images, to be changed."""
    return Path(shutil.copytree(images, tmp_path / "copy"))


def _start(out: Path, root: Path, *words: str) -> int:
    return train.main(compose_digits(root, f"out={out}", *_WORDS, *words))


def _remove_image(root: Path) -> None:
    next(iter(sorted((root / "val").rglob("*.*")))).unlink()


def _add_image(root: Path) -> None:
    file = next(iter(sorted((root / "train").rglob("*.*"))))
    shutil.copy(file, file.with_name(f"a{file.name}"))


def _rename_class(root: Path) -> None:
    for split in ("train", "val"):
        folder = min((root / split).iterdir())
        folder.rename(folder.with_name("z"))


def _swap_classes(root: Path) -> None:
    """Let each class have the other's images, under the names that its own had."""
    for split in ("train", "val"):
        one, other = (sorted(folder.iterdir()) for folder in sorted((root / split).iterdir()))
        for mine, theirs in zip(one, other, strict=True):
            aside = mine.read_bytes()
            mine.write_bytes(theirs.read_bytes())
            theirs.write_bytes(aside)


def _add_class(root: Path) -> None:
    for split in ("train", "val"):
        folder = min((root / split).iterdir())
        shutil.copytree(folder, folder.with_name("z"))


CHANGES: list[Any] = [
    pytest.param(_remove_image, "val: 16 images there, 15 here", id="one image less"),
    pytest.param(_add_image, "train: 16 images there, 17 here", id="one image more"),
    pytest.param(_rename_class, r"only here: \['z'\]", id="a class renamed"),
    pytest.param(_swap_classes, "same names and classes, but with other content", id="classes swapped"),
    pytest.param(_add_class, "2 classes there, 3 here", id="a class more"),
]


@pytest.mark.parametrize(("change", "complaint"), CHANGES)
def test_changed_data_ends_a_resume_with_what_differs(
    change: Callable[[Path], None], complaint: str, copy: Path, runs: Path
) -> None:
    change(copy)
    refusal = rf"trained on other data .*{complaint}.*name="
    with pytest.raises(ValueError, match=refusal):
        _start(runs, copy, "steps=2")
    (unnamed,) = runs.iterdir()
    unnamed.rename(runs / "a")
    with pytest.raises(ValueError, match=refusal):
        _start(runs, copy, "steps=2", "name=a")


def test_other_held_out_images_end_a_resume(images: Path, copy: Path, runs: Path) -> None:
    _remove_image(copy)
    with pytest.raises(ValueError, match=r"val: 16 images there, 15 here"):
        _start(runs, images, f"data.val={copy / 'val'}", "steps=2")


def test_the_same_data_elsewhere_is_the_same_run_and_other_data_another(copy: Path, runs: Path) -> None:
    (first,) = runs.iterdir()
    assert _start(runs, copy) == 0
    assert "resumed" in (first / "log.txt").read_text()
    assert list(runs.iterdir()) == [first]
    for split in ("train", "val"):
        for folder in list((copy / split).iterdir()):
            folder.rename(folder.with_name(f"other-{folder.name}"))
    assert _start(runs, copy) == 0
    (second,) = set(runs.iterdir()) - {first}
    assert "resumed" not in (second / "log.txt").read_text()


def test_a_class_whose_name_is_not_utf_8_trains_and_is_evaluated(copy: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = min((copy / split).iterdir())
        folder.rename(folder.with_name(os.fsdecode(b"caf\xe9")))
    assert _start(tmp_path / "runs", copy, "name=a") == 0
    arguments = [f"checkpoint={tmp_path / 'runs' / 'a'}", "device=cpu", f"out={tmp_path / 'evaluated'}"]
    evaluation.evaluate(cli.compose(arguments, config_name="eval", schema=EVAL_SCHEMA))
    (by_class,) = (tmp_path / "evaluated").glob("*-classes.csv")
    assert "caf\\udce9,8," in by_class.read_text(encoding="utf-8")


def test_a_checkpoint_that_does_not_say_its_data_goes_on_with_a_note(images: Path, runs: Path) -> None:
    (folder,) = runs.iterdir()
    for file in (folder / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        content.pop("data", None)
        file.unlink()
        torch.save(content, file)
    older = folder.rename(folder.with_name(folder.name.rpartition("-")[0]))  # as versions before fingerprints named it
    assert _start(runs, images) == 0
    assert list(runs.iterdir()) == [older]
    assert "does not say which data it was trained on" in (older / "log.txt").read_text()
