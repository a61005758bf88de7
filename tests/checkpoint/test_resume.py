"""How often a checkpoint is read: once where it is found, and mapped, not copied, by the other ranks."""

from pathlib import Path

import pytest
import torch

from tests.reliability.states import make_state
from vitaos.checkpoint import safe_load
from vitaos.checkpoint.resume import find_resume, load_checkpoint
from vitaos.checkpoint.store import Checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(make_state(3), step=3, block=True)
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_what_was_found_is_there_with_its_contents(folder: Path) -> None:
    found = find_resume("auto", folder)
    assert found is not None
    assert found.contents is not None
    assert torch.equal(found.contents["model"]["weight"], make_state(3)["model"]["weight"])


def test_a_mapped_checkpoint_is_the_same_and_survives_its_removal(folder: Path) -> None:
    path = folder / "step-00000003.pt"
    read, mapped = load_checkpoint(path), load_checkpoint(path, check=False, mmap=True)
    for file in folder.iterdir():
        file.unlink()
    tensor = mapped["model"]["weight"]
    assert torch.equal(tensor, read["model"]["weight"])
    tensor.zero_()  # the mapping is private: nothing is written to the disk
    assert list(folder.iterdir()) == []


def test_only_a_checked_file_is_trusted_without_a_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(safe_load, "check_integrity", checked.append)
    load_checkpoint(folder / "last.pt", check=False)
    assert checked == []
    load_checkpoint(folder / "last.pt")
    assert checked == [folder / "last.pt"]


def test_an_old_format_that_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(safe_load.load_file(tmp_path / "old.pt", mmap=True)["weight"], torch.ones(2))


def test_a_last_file_that_lags_behind_a_numbered_one_is_not_the_newest(tmp_path: Path) -> None:
    """As a copy of the folder that was cut off leaves it, or a disk without hard links on which a job was killed."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=3)
    for step in (2, 3):
        checkpoints.save(make_state(step), step=step, block=True)
    checkpoints.close()
    (folder / "last.pt").unlink()
    (folder / "last.pt").write_bytes((folder / "step-00000002.pt").read_bytes())
    found = find_resume("auto", folder)
    assert found is not None
    assert (found.step, found.path.name) == (3, "step-00000003.pt")
    (folder / "step-00000003.pt").write_bytes(b"damaged")
    found = find_resume("auto", folder)
    assert found is not None
    assert (found.step, found.path.name) == (2, "last.pt")
    assert [path.name for path in found.damaged] == ["step-00000003.pt"]


def test_where_the_numbered_ones_are_damaged_the_best_one_is_gone_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(make_state(2), step=2, block=True)
    checkpoints.save(make_state(2), step=2, kind="best", block=True)
    checkpoints.close()
    best = (folder / "best.pt").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    (folder / "best.pt").write_bytes(best)
    assert find_resume("auto", folder) is None  # kept on purpose, perhaps: nobody asked to go on from it
    (folder / "last.pt").write_bytes(b"damaged")
    found = find_resume("auto", folder)
    assert found is not None
    assert (found.step, found.path.name) == (2, "best.pt")
