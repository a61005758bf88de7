"""What a report shows: tables, figures, published numbers."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from tests.study.run_folders import Write, study
from vitaos.analysis.figures import new_figure
from vitaos.study.cells import Study
from vitaos.study.figures import draw_by_depth
from vitaos.study.published import Published, published
from vitaos.study.report import write_report


def test_another_backbone_or_budget_has_no_published_number(write: Write, tmp_path: Path) -> None:
    write("whole", 80.0, done=300, epochs=300)
    write("changed", 80.0, done=300, epochs=300, depth=24, model={"keywords": {"patch_size": 8}})
    write("short", 80.0, attnscale=True)
    write("tuned", 80.0, done=300, epochs=300, featscale=True, init="weights.pth")
    write_report(study(tmp_path), tmp_path / "report")
    with (tmp_path / "report" / "table.csv").open() as file:
        assert [row["published"] for row in csv.DictReader(file)] == ["79.8", "", "", ""]


def test_published_numbers_stand_beside_their_own_setting_only() -> None:
    assert published("deit_s", "imagenet", 24, "attnscale", 224) == Published(81.1, 500)
    assert published("deit_s", "imagenet", 24, "plain", 224) == Published(80.5, None)
    assert published("deit_s", "digits", 24, "attnscale", 224) is None
    assert published("deit_s", "imagenet", 36, "attnscale", 224) is None
    assert published("deit_s", "imagenet", 24, "attnscale", 384) is None


def test_a_published_number_says_how_long_it_was_trained() -> None:
    assert Published(79.8, 300).beside(300) == "79.8 (300 epochs)"
    assert Published(81.1, 500).beside(300) == "81.1 (500 epochs, not 300)"
    assert Published(80.4).beside(300) == "80.4 (epochs not known)"


def test_report_holds_table_figures_and_what_was_left_out(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        for technique in (None, "attnscale"):
            for depth in (12, 24):
                switched = {technique: True} if technique else {}
                name, top1 = f"{technique}-{depth}-{seed}", 80.0 + seed + depth / 24
                write(name, top1, seed=seed, depth=depth, done=300, epochs=300, **switched)
    write("late", 70.0, seed=5, done=1)
    session = {"command": "/somewhere/bin/python /else/train.py depth=12", "hardware": {"cpus": 2, "cpu": "a CPU"}}
    (tmp_path / "None-12-0" / "environment.json").write_text(json.dumps({"sessions": [session]}))
    files = write_report(study(tmp_path), tmp_path / "report")
    assert all(file.stat().st_size > 100 for file in files)
    assert {file.name for file in files} == {
        "report.md",
        "table.csv",
        "runs.csv",
        "accuracy_deit_s_imagenet.png",
        "curves_deit_s_imagenet.png",
    }
    text = files[0].read_text()
    assert "| blocks | plain | AttnScale |\n|---|---|---|\n| 12 | 81.00 ± 0.71 | 81.00 ± 0.71 |\n" in text
    assert "| 12 | AttnScale | 2 | 81.00 ± 0.71 | +0.00 [-3.04, +3.04] | 80.7 (500 epochs, not 300) |" in text
    assert "late: 1 of 2 epochs" in text
    assert "| None-12-0 | 0 | 80.50 | 300 | 2 cores a CPU | train.py depth=12 |" in text
    with files[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["n"] for row in rows] == ["2"] * 4
    assert float(rows[1]["interval_low"]) == pytest.approx(-3.0427, abs=1e-3)


def test_another_metric_has_its_own_unit_and_no_published_numbers(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"plain{seed}", 80.0, seed=seed, lines={"token_similarity": 0.5 + 0.001 * seed})
        write(f"scaled{seed}", 80.0, seed=seed, lines={"token_similarity": 0.4}, attnscale=True)
    files = write_report(study(tmp_path, "token_similarity"), tmp_path / "report")
    text = files[0].read_text()
    assert "token similarity of the last epoch" in text
    assert "| 12 | AttnScale | 2 | 0.4000 ± 0.0000 | -0.1005 [-0.1069, -0.0941] |\n" in text
    assert "(%)" not in text
    assert "ublished" not in text
    assert (tmp_path / "report" / "token_similarity_deit_s_imagenet.png").stat().st_size > 100


def test_the_command_names_models_by_backbone_and_depth() -> None:
    path = Path(__file__).parents[2] / "scripts" / "report.py"
    spec = importlib.util.spec_from_file_location("report_command", path)
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    assert command.identify("deit_s24") == ("deit_s", 24)
    assert command.identify("cait_xxs24") == ("cait_xxs", 24)
    assert command.identify("swin_s") == ("swin_s", 24)
    assert command.identify("vit_small_patch16_224") == ("vit_small_patch16_224", None)


def lines_between_depths(result: Study) -> list[list[float]]:
    figure = new_figure((3, 3))
    draw_by_depth(figure, result, result.cells)
    return [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "-"]


def test_a_line_joins_depths_that_differ_in_nothing_else(write: Write, tmp_path: Path) -> None:
    for depth, rate in ((12, 5e-4), (24, 5e-4), (36, 1e-4)):
        write(f"depth{depth}", 80.0, depth=depth, recipe={"lr": rate})
    result = study(tmp_path)
    assert lines_between_depths(result) == [[12, 24]]
    text = write_report(result, tmp_path / "report")[0].read_text()
    assert "24 and 36 blocks are not to be compared, and no line joins them: recipe.lr: 0.0005" in text
    assert "12 and 24 blocks are" not in text
