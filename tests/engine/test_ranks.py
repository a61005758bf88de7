"""Three real processes under torchrun: the same run as one process makes, decisions taken alike, exact counts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_ranks import evaluations, feature_judges, plain_run
from miniature import ALONE, RecordingSink, add_loss_term, assert_same, make_trainer, timeless, tiny_vit

HERE = Path(__file__).parent
RANKS = 3
Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each rank saw; see engine_ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(HERE / "engine_ranks.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_ranks_agree_sum_and_broadcast(seen: Seen) -> None:
    for rank in seen:
        found = rank["collectives"]
        assert found["answers"] == [False, True]
        assert (found["sum"], found["name"], found["again"]) == (6, "from 0", True)


def test_one_rank_of_a_machine_looks_at_the_files_and_tells_the_others(seen: Seen) -> None:
    for number, rank in enumerate(seen):
        found = rank["looks_at_files"]
        assert sorted(found["opened"]) == (["a.png", "a.png", "b.png", "b.png"] if number == 0 else [])
        assert found["kept"] == 1
        assert found["told"][0].startswith("1 file(s) or folder(s) below ROOT are not images: cat/b.png")
        assert found["told"][1:] == ["rank 0 failed"]


def test_a_resumed_run_of_several_ranks_is_the_same_to_the_last_bit(seen: Seen) -> None:
    for rank in seen:
        found = rank["resumption"]
        for state in (found["whole"], found["again"]):
            for key in ("train_seconds", "epoch_seconds"):
                del state["progress"][key]
        assert 0 < found["resumed_at"] < 4
        assert_same(found["again"], found["whole"])
        assert_same(found["whole"], seen[0]["resumption"]["whole"])
    assert timeless(seen[0]["resumption"]["again_lines"]) == timeless(seen[0]["resumption"]["lines"])
    assert len(seen[0]["resumption"]["lines"]) == 2


def test_three_ranks_train_as_one(seen: Seen) -> None:
    alone, together = plain_run(ALONE), seen[0]["plain_run"]
    for key, value in alone["model"].items():
        torch.testing.assert_close(together["model"][key], value, rtol=1e-3, atol=1e-4)  # a key bias is all rounding
    for one, other in zip(alone["lines"], together["lines"], strict=True):
        for key in ("train_loss", "train_spread"):
            assert other[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6)  # sums of terms have units of 6e-8
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)
        assert (other["epoch"], other["step"], other["lr"]) == (one["epoch"], one["step"], one["lr"])


def test_one_rank_goes_on_where_three_left_within_an_epoch(seen: Seen) -> None:
    saved = seen[0]["plain_run"]["saved"]
    assert saved["progress"]["step"] == 3
    trainer = make_trainer(ALONE, model=add_loss_term(tiny_vit()), sinks=[sink := RecordingSink()])
    trainer.load_state_dict(saved)
    trainer.fit()
    for one, other in zip(sink.lines, seen[0]["plain_run"]["lines"], strict=True):
        for key in ("train_loss", "train_spread"):
            assert one[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)


def test_nan_on_one_rank_is_everyones_decision(seen: Seen) -> None:
    for rank in seen:
        found = rank["non_finite"]
        assert found["stopped_at"] == 3
        assert found["skipped"] == 1
        assert all(bool(torch.isfinite(value).all()) for value in found["skipped_model"].values())
        assert_same(found["stopped_model"], seen[0]["non_finite"]["stopped_model"])
        assert_same(found["skipped_model"], seen[0]["non_finite"]["skipped_model"])


def test_a_request_to_one_rank_makes_all_leave_at_the_same_step(seen: Seen) -> None:
    assert {rank["leaving"]["status"] for rank in seen} == {"preempted"}
    assert len({rank["leaving"]["step"] for rank in seen}) == 1


def test_every_image_counts_once_whoever_sees_it(seen: Seen) -> None:
    alone = evaluations(ALONE)
    for rank in seen:
        assert rank["evaluations"]["interrupted"]
        for images in ("53", "2", "1"):
            *counts, loss = rank["evaluations"][images]
            assert counts == alone[images][:-1]
            assert loss == pytest.approx(alone[images][-1], rel=1e-6)


def test_ranks_judge_features_as_one(seen: Seen) -> None:
    alone = feature_judges(ALONE)
    for rank in seen:
        found = rank["feature_judges"]
        torch.testing.assert_close(found["bank"], alone["bank"])
        assert torch.equal(found["targets"], alone["targets"])
        for name in ("knn", "linear"):
            assert found[name] == alone[name]
            assert found[f"{name} measures"] == pytest.approx(alone[f"{name} measures"], rel=1e-3, abs=1e-4)


def test_data_that_differs_between_ranks_is_refused_on_all_of_them(seen: Seen) -> None:
    for rank in seen:
        found = rank["unlike_copies"]
        assert "rank 2 has other data than rank 0" in found["class_counts"]
        assert "24 images on rank 0, 22 on rank 2" in found["class_counts"]
        assert "only on rank 0: ['b']; only on rank 2: ['c']" in found["class_names"]
        assert "other names or order of the files" in found["sha256"]
        assert "23 images were evaluated" in found["evaluated"]


def test_bad_images_of_all_ranks_count_together(seen: Seen) -> None:
    for number, rank in enumerate(seen):
        found = rank["unlike_copies"]
        assert found["decoded instead"] == 5 * number + 1
        assert found["bad"].startswith("photos: 3 of 24 images do not decode, more than 0.1%; the first one is image 0")
