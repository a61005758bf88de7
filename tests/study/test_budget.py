"""Equal budgets: what a run spent, how it is shown, and what is not compared because it spent more."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.study.run_folders import Write, identify, study
from vitaos import cli
from vitaos.assembly.model_cost import ModelCosts
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.study.budget import ModelCost
from vitaos.study.report import write_report
from vitaos.study.runs import Run, read_runs


def cost(run: Run) -> ModelCost:
    """AttnScale next to nothing, FeatScale half as much again."""
    share = {"attnscale": 1.01, "featscale": 1.5}.get(run.technique, 1.0)
    return ModelCost(parameters=1000, flops=int(2_000_000 * share))


def test_budgets_are_shown_and_dearer_techniques_not_compared(write: Write, tmp_path: Path) -> None:
    session = json.dumps({"sessions": [{"world_size": 2}]})
    for name, technique in (("plain", None), ("scaled", "attnscale"), ("dear", "featscale")):
        folder = write(name, 80.0, **({technique: True} if technique else {}))
        (folder / "environment.json").write_text(session)
    found = study(tmp_path, cost_of=cost)
    assert [cell.difference is None for cell in found.cells] == [True, False, True]
    reason = "it has no equal budget: x1.50 operations an image"
    assert found.notes == (f"deit_s, 12 blocks, featscale: not compared with plain, because {reason}.",)
    write_report(found, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    images, training = 20 * 256 * 2, 3 * 2_020_000 * 20 * 256 * 2 / 1e12
    assert f"| deit_s | 12 | AttnScale | 2 | {images:,} | 1,000 (x1.000) | 2.0 (x1.010) | {training:.1f} |" in text
    with (tmp_path / "report" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["flops_an_image"] for row in rows] == ["2000000", "2020000", "3000000"]
    assert {row["images"] for row in rows} == {str(images)}


def test_other_epochs_or_images_are_not_compared(write: Write, tmp_path: Path) -> None:
    write("plain", 80.0)
    write("longer", 82.0, attnscale=True, epochs=3, done=3)
    write("more", 82.0, featscale=True, lines={"step": 40})
    notes = study(tmp_path).notes
    assert len(notes) == 2
    assert "epochs: 3 (longer) against 2 (plain)" in notes[0]
    assert "steps an epoch: 20.0 (more) against 10.0 (plain)" in notes[1]


def test_a_key_that_came_later_does_not_part_runs(write: Write, tmp_path: Path) -> None:
    write("before", 80.0)
    write("after", 81.0, seed=1, recipe={"erasing_mode": "pixel", "erasing_count": 1}, skip_gain=1.0)
    assert len(study(tmp_path).cells[0].runs) == 2
    write("other", 81.0, seed=2, recipe={"erasing_mode": "rand"})
    with pytest.raises(ValueError, match="erasing_mode"):
        study(tmp_path)


def run_of(folder: Path, *words: str) -> Run:
    folder.mkdir()
    config = cli.compose(("data=digits", *words), config_name="train", schema=TRAIN_SCHEMA)
    OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml")
    (run,), unreadable = read_runs([folder], technique_flags=["attnscale", "gfsa"], identify=identify)
    assert not unreadable
    return run


def test_a_model_is_counted_as_by_hand(tmp_path: Path) -> None:
    width, tokens, classes = 64, 17, 10
    block = 2 * tokens * (12 * width**2) + 2 * 2 * tokens**2 * width
    patches = 2 * 16 * (3 * 8 * 8) * width
    expected = 3 * block + patches + 2 * width * classes
    costs = ModelCosts()
    plain = costs(run_of(tmp_path / "plain", "depth=3"))
    scaled = costs(run_of(tmp_path / "scaled", "depth=3", "attnscale=true"))
    twice = costs(run_of(tmp_path / "gfsa", "depth=3", "gfsa=true"))
    assert plain is not None
    assert scaled is not None
    assert twice is not None
    assert plain.flops == expected
    assert scaled == ModelCost(plain.parameters + 3 * 4, plain.flops + 3 * 2 * width**2)  # its mean is projected apart
    assert twice.flops == plain.flops + 3 * 2 * 2 * tokens**2 * width  # fused attention a second time


def test_runs_that_differ_in_rate_dose_and_seed_share_one_cost(tmp_path: Path) -> None:
    costs = ModelCosts()
    plain = run_of(tmp_path / "plain", "depth=2")
    other = run_of(tmp_path / "other", "depth=2", "recipe.lr=1e-4", "optimizer.eps=1e-6", "skip_gain=0.5", "seed=1")
    assert costs(other) is costs(plain)  # counted once for both
    assert ModelCosts()(other) == costs(plain)  # and rightly so
    assert costs(run_of(tmp_path / "deeper", "depth=3")) != costs(plain)


@pytest.mark.parametrize("changes", [{"depth": 10**7}, {"model.name": "nothing_of_timm"}, {"data.img_size": 10**6}])
def test_a_folder_that_describes_no_real_model_has_no_cost(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = tmp_path / "run"
    run_of(folder, "depth=2")
    config = OmegaConf.load(folder / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, folder / "config.yaml")
    (run,), _ = read_runs([folder], technique_flags=["attnscale"], identify=identify)
    assert ModelCosts()(run) is None
