"""Checkpoints: what is written is what was there, the newest whole one is found, their number is bounded."""

import gc
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reliability.states import make_state, names, same
from vitaos.checkpoint.resume import ResumePoint, find_newest, find_resume, load_checkpoint
from vitaos.checkpoint.store import Checkpoints

CONFIG = make_state(0)["config"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def _written(folder: Path, steps: tuple[int, ...] = (10, 20, 30)) -> None:
    checkpoints = Checkpoints(folder, keep=3)
    for step in steps:
        checkpoints.save(make_state(step), step=step)
    checkpoints.close()


def test_what_is_saved_is_what_was_there_when_save_returned(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    state = make_state(7)
    assert checkpoints.save(state, step=7)
    state["model"]["weight"].zero_()
    state["progress"]["step"] = 8
    checkpoints.close()
    assert same(load_checkpoint(folder / "last.pt"), make_state(7))


def test_plain_torch_load_reads_it(folder: Path) -> None:
    _written(folder, (5,))
    assert same(torch.load(folder / "last.pt", weights_only=True), make_state(5))


def test_names_kinds_and_bound(folder: Path) -> None:
    checkpoints = Checkpoints(folder, keep=2)
    kinds = {10: "last", 20: "both", 30: "last", 40: "best", 50: "last"}
    for step, kind in kinds.items():
        checkpoints.save(make_state(step), step=step, kind=kind, block=True)  # type: ignore[arg-type]  # literals above
    checkpoints.close()
    assert names(folder) == ["best.pt", "last.pt", "step-00000030.pt", "step-00000050.pt"]
    assert load_checkpoint(folder / "best.pt")["progress"]["step"] == 40
    assert (folder / "last.pt").samefile(folder / "step-00000050.pt")


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    for seed in (1, 2):
        checkpoints.save(make_state(10) | {"config": {"seed": seed}}, step=10, kind="both")
    checkpoints.close()
    assert names(folder) == ["best.pt", "last.pt", "step-00000010.pt"]
    assert load_checkpoint(folder / "last.pt")["config"] == {"seed": 2}


def without_contents(found: ResumePoint | None) -> ResumePoint:
    assert found is not None
    return found._replace(contents=None)


def test_what_resume_may_name(folder: Path, tmp_path: Path) -> None:
    assert find_resume("auto", folder) is None
    _written(folder)
    assert find_resume("never", folder) is None
    assert without_contents(find_resume("auto", folder)) == ResumePoint(folder / "step-00000030.pt", 30, CONFIG)
    other = tmp_path / "other" / "checkpoints"
    run = tmp_path / "run" / "checkpoints"
    run.parent.mkdir()
    folder.rename(run)
    assert without_contents(find_resume(str(run.parent), other)) == ResumePoint(run / "step-00000030.pt", 30, CONFIG)
    assert without_contents(find_resume(str(run / "last.pt"), other)) == ResumePoint(run / "last.pt", 30, CONFIG)
    _written(other, (70,))
    own = find_resume(str(run.parent), other)
    assert own is not None
    assert own.step == 70, "the same command given again continues the run it began"
    with pytest.raises(ValueError, match="no checkpoint in that folder"):
        find_resume(str(tmp_path), tmp_path / "empty")
    with pytest.raises(ValueError, match=r"nowhere: it is auto, never, or the path"):
        find_resume(str(tmp_path / "nowhere"), tmp_path / "empty")


def test_a_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "deit.pth")
    with pytest.raises(ValueError, match="not a checkpoint of a vitaos run"):
        load_checkpoint(tmp_path / "deit.pth")
    torch.save({"format": "vitaos-1", "model": {}}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="lacks ema, optimizer"):
        load_checkpoint(tmp_path / "part.pt")


@pytest.mark.parametrize(
    "value", [Path("x"), object(), {1.5: 2}, torch.nn.Linear(1, 1)], ids=lambda value: type(value).__name__
)
def test_what_could_not_be_read_back_is_refused_when_saving(folder: Path, value: Any) -> None:
    checkpoints = Checkpoints(folder)
    with pytest.raises(TypeError, match=r"config\.odd"):
        checkpoints.save(make_state(1) | {"config": {"odd": value}}, step=1)
    assert checkpoints.save(make_state(1), step=1, block=True), "the writer goes on"
    checkpoints.close()


def test_arguments_are_checked(folder: Path) -> None:
    with pytest.raises(ValueError, match="keep=1"):
        Checkpoints(folder, keep=1)
    with pytest.raises(ValueError, match="max_lag=-1"):
        Checkpoints(folder, max_lag=-1)


def _damage(path: Path, whole: bytes, chance: random.Random) -> None:
    """Cut the file anywhere, or flip one bit anywhere."""
    if chance.random() < 0.5:
        path.write_bytes(whole[: chance.randrange(len(whole))])
    else:
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)


def test_a_thousand_damages_are_refused_and_the_one_before_is_taken(folder: Path) -> None:
    _written(folder)
    newest = folder / "step-00000030.pt"
    whole = newest.read_bytes()
    chance = random.Random(4)
    for trial in range(1000):
        _damage(newest, whole, chance)
        with pytest.raises(ValueError, match=r"damaged|truncated") as refusal:
            load_checkpoint(newest)
        assert str(newest) in str(refusal.value)
        if trial % 10 == 0:
            found = find_newest(folder)
            assert found is not None
            assert found.path == folder / "step-00000020.pt"
            assert str(newest) in found.notes[0]
            assert "Going on from" in found.notes[-1]


def test_after_a_fall_back_the_damaged_file_is_out_of_the_way(folder: Path) -> None:
    _written(folder)
    (folder / "step-00000030.pt").write_bytes(b"torn")
    found = find_newest(folder)
    assert found is not None
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.set_aside_damaged(found)
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 20
    assert without_contents(find_newest(folder)) == ResumePoint(folder / "step-00000020.pt", 20, CONFIG)
    checkpoints.save(make_state(30), step=30)
    checkpoints.close()
    assert names(folder) == ["last.pt", "step-00000020.pt", "step-00000030.pt", "step-00000030.pt.damaged"]


def test_a_last_pt_put_there_by_hand_is_tried_first(folder: Path) -> None:
    _written(folder)
    (folder / "last.pt").unlink()
    (folder / "last.pt").write_bytes(b"no checkpoint")
    found = find_newest(folder)
    assert found is not None
    assert (found.step, found.damaged) == (30, (folder / "last.pt",))


def test_when_every_one_is_damaged_the_run_does_not_start_anew_in_silence(folder: Path) -> None:
    _written(folder)
    for path in folder.iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="No checkpoint of this run can be read") as refusal:
        find_newest(folder)
    for step in (10, 20, 30):
        assert f"step-{step:08d}.pt" in str(refusal.value)


def test_the_disk_may_lag_by_one_save_and_the_next_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    sync = os.fsync

    def gated_sync(descriptor: int) -> None:
        assert gate.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", gated_sync)
    told: list[str] = []
    checkpoints = Checkpoints(folder, max_lag=1, report=told.append)
    checkpoints.save(make_state(1), step=1)
    checkpoints.save(make_state(2), step=2)
    assert checkpoints.waited_s == 0, "the loop pays the copy, and no disk"
    assert not checkpoints.flush(0.01)
    threading.Timer(0.7, gate.set).start()
    checkpoints.save(make_state(3), step=3)
    assert checkpoints.waited_s > 0
    assert "Training waited" in told[0]
    checkpoints.close()
    found = find_newest(folder)
    assert found is not None
    assert found.step == 3


def test_two_hundred_saves_leave_nothing_growing(folder: Path) -> None:
    checkpoints = Checkpoints(folder, keep=3)
    state = make_state(1, numbers=1 << 14)

    def held() -> tuple[int, int, int]:
        gc.collect()
        tensors = sum(type(thing) is torch.Tensor for thing in gc.get_objects())
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), tensors

    for step in range(1, 6):
        checkpoints.save(state, step=step, block=True)
    before = held()
    for step in range(6, 206):
        checkpoints.save(state, step=step, kind="both" if step % 7 == 0 else "last")
    assert checkpoints.flush(60)
    after = held()
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 2 * 12, "at most two more sets of buffers"
    checkpoints.close()
    assert len([name for name in names(folder) if name.startswith("step-")]) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_state_on_the_device_is_copied_before_the_loop_changes_it(folder: Path) -> None:
    weight = torch.zeros(1 << 24, device="cuda")
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(make_state(step) | {"model": {"weight": weight}}, step=step)
        weight += 1
    checkpoints.close()
    assert load_checkpoint(folder / "last.pt")["model"]["weight"].unique().tolist() == [2.0]
