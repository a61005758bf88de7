"""Reading a study back: what may be averaged, what it is compared with, and what is said of it."""

import csv
import importlib.util
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from scipy.stats import t as student_t

from vitaos.analysis.figures import new_figure
from vitaos.study.cells import Study, build_study, welch_difference
from vitaos.study.figures import draw_by_depth
from vitaos.study.labels import technique_title
from vitaos.study.published import published
from vitaos.study.report import write_report
from vitaos.study.runs import read_runs

TECHNIQUE_FLAGS = ["attnscale", "featscale", "contranorm"]
Write = Callable[..., Path]


def identify(name: str) -> tuple[str, int | None]:
    return (name[:-2], int(name[-2:])) if name.startswith("deit") else (name, None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run folder: ``write("a", 80.0, seed=1, attnscale=True)``."""

    def write_run(
        name: str, top1: float, *, done: int = 2, lines: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        config = {
            "model": {"name": "deit_s12", "keywords": {}},
            "depth": None,
            "data": {"name": "imagenet", "img_size": 224, "root": f"/data/{name}", "workers": 4},
            "recipe": {"lr": 5e-4, "name": "deit_12"},
            "logger": {"name": "none"},
            "epochs": 2,
            "steps": None,
            "batch_size": 256,
            "accumulate": 1,
            "seed": 0,
            "name": name,
            "out": "runs",
            **dict.fromkeys(TECHNIQUE_FLAGS, False),
        }
        folder = tmp_path / name
        folder.mkdir()
        OmegaConf.save(OmegaConf.merge(config, changes), folder / "config.yaml")
        epochs = [
            {"epoch": epoch, "step": 10 * (epoch + 1), "val_top1": top1 - (done - 1 - epoch), "train_loss": 2.0}
            | (lines or {})
            for epoch in range(done)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
        return folder

    return write_run


def study(folder: Path, metric: str = "auto") -> Study:
    runs, unreadable = read_runs(list(folder.iterdir()), technique_flags=TECHNIQUE_FLAGS, identify=identify)
    return build_study(runs, technique_flags=TECHNIQUE_FLAGS, metric=metric, unreadable=unreadable)


def test_cells_are_means_over_seeds_compared_with_plain(write: Write, tmp_path: Path) -> None:
    plain, scaled = [79.0, 80.0, 80.5], [81.0, 80.9, 81.4]
    for seed, (one, other) in enumerate(zip(plain, scaled, strict=True)):
        write(f"plain{seed}", one, seed=seed)
        write(f"scaled{seed}", other, seed=seed, attnscale=True)
    cells = study(tmp_path).cells
    assert [cell.technique for cell in cells] == ["plain", "attnscale"]
    assert [cell.depth for cell in cells] == [12, 12]
    assert cells[1].mean == pytest.approx(sum(scaled) / 3)
    assert cells[1].std == pytest.approx(0.26457513)
    assert cells[0].difference is None
    difference = cells[1].difference
    assert difference is not None
    variances = [statistics.variance(values) / 3 for values in (scaled, plain)]
    freedom = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)  # Welch and Satterthwaite
    half = student_t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    value = sum(scaled) / 3 - sum(plain) / 3
    assert difference.interval == pytest.approx((value - half, value + half))


def test_welch_needs_two_runs_of_each() -> None:
    assert welch_difference([80.0], [79.0, 79.5]).interval is None
    assert welch_difference([80.0, 80.0], [79.0, 79.0]).interval is None, "no spread is no certainty"
    assert math.isclose(welch_difference([80.0], [79.0, 79.5]).value, 0.75)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, seed=0)
    write("b", 81.0, seed=1, recipe={"lr": 1e-3})
    with pytest.raises(ValueError, match=r"recipe\.lr: 0\.0005 \(a\) against 0\.001 \(b\)"):
        study(tmp_path)


def test_the_same_seed_is_not_counted_twice(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 81.0)
    with pytest.raises(ValueError, match="same run"):
        study(tmp_path)


def test_where_a_run_ran_does_not_matter(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, seed=0, out="elsewhere", data={"workers": 9}, logger={"name": "wandb"})
    write("b", 81.0, seed=1, model={"name": "deit_s24"}, depth=12)
    (cell,) = study(tmp_path).cells
    assert len(cell.runs) == 2


def test_how_a_global_batch_is_cut_does_not_matter(write: Write, tmp_path: Path) -> None:
    for name, seed, batch, world in (("a", 0, 256, 2), ("b", 1, 512, 1)):
        folder = write(name, 80.0, seed=seed, batch_size=batch)
        (folder / "environment.json").write_text(json.dumps({"sessions": [{"world_size": world}]}))
    assert len(study(tmp_path).cells[0].runs) == 2
    third = write("c", 80.0, seed=2, batch_size=512)
    (third / "environment.json").write_text(json.dumps({"sessions": [{"world_size": 2}]}))
    with pytest.raises(ValueError, match="global batch: 512"):
        study(tmp_path)


def test_unfinished_runs_and_other_folders_are_left_out(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 70.0, seed=1, done=1)
    (tmp_path / "report").mkdir()
    torn = write("c", 80.0, seed=2)
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "va')
    result = study(tmp_path)
    assert [run.path.name for run in result.unfinished] == ["b"]
    assert [run.path.name for run in result.cells[0].runs] == ["a", "c"]


def test_a_run_that_was_to_end_after_some_steps_is_finished_there(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, done=1, steps=10)
    assert not study(tmp_path).unfinished


def test_nothing_finished_is_an_error(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, done=1)
    with pytest.raises(ValueError, match="no finished run among 1"):
        study(tmp_path)


def test_the_average_of_weights_is_judged_where_all_runs_have_it(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, lines={"ema_top1": 82.0})
    assert study(tmp_path).metric == "ema_top1"
    assert study(tmp_path, "val_top1").cells[0].mean == 80.0
    write("b", 81.0, seed=1)
    assert study(tmp_path).metric == "val_top1"
    with pytest.raises(ValueError, match="metric=ema_top1: the last line"):
        study(tmp_path, "ema_top1")


def test_a_technique_is_not_compared_with_a_plain_run_of_another_recipe(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 81.0, attnscale=True, epochs=3, done=3)
    write("c", 81.0, featscale=True, depth=24)
    result = study(tmp_path)
    assert all(cell.difference is None for cell in result.cells)
    assert "epochs: 3 (b) against 2 (a)" in result.notes[0]
    assert "no finished plain run" in result.notes[1]


def test_options_of_a_technique_make_it_another_one(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 81.0, contranorm=True)
    write("c", 82.0, contranorm={"scale": 0.2})
    write("d", 82.0, attnscale=True, contranorm=True)
    names = [cell.technique for cell in study(tmp_path).cells]
    assert names == ["plain", "contranorm", "contranorm(scale=0.2)", "attnscale + contranorm"]
    assert technique_title(names[2]) == "ContraNorm (scale=0.2)"


def test_register_tokens_are_a_technique_of_the_report(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"plain{seed}", 80.0 + seed, seed=seed, model={"keywords": {"reg_tokens": 0}})
        write(f"registers{seed}", 81.0 + seed, seed=seed, model={"keywords": {"reg_tokens": 4}})
    write("both", 82.0, model={"keywords": {"reg_tokens": 4}}, attnscale=True)
    cells = study(tmp_path).cells
    assert [technique_title(cell.technique) for cell in cells] == [
        "plain", "register tokens (4)", "AttnScale + register tokens (4)"
    ]  # fmt: skip
    assert [len(cell.runs) for cell in cells] == [2, 2, 1]
    assert all(cell.difference is not None for cell in cells[1:])


def test_another_backbone_or_budget_has_no_published_number(write: Write, tmp_path: Path) -> None:
    write("whole", 80.0, done=300, epochs=300)
    write("changed", 80.0, done=300, epochs=300, depth=24, model={"keywords": {"patch_size": 8}})
    write("short", 80.0, attnscale=True)
    write("tuned", 80.0, done=300, epochs=300, featscale=True, init="weights.pth")
    write_report(study(tmp_path), tmp_path / "report")
    with (tmp_path / "report" / "table.csv").open() as file:
        assert [row["published"] for row in csv.DictReader(file)] == ["79.8", "", "", ""]


def test_published_numbers_stand_beside_their_own_setting_only() -> None:
    assert published("deit_s", "imagenet", 24, "attnscale", 224) == 81.1
    assert published("deit_s", "imagenet", 24, "plain", 224) == 80.5
    assert published("deit_s", "digits", 24, "attnscale", 224) is None
    assert published("deit_s", "imagenet", 36, "attnscale", 224) is None
    assert published("deit_s", "imagenet", 24, "attnscale", 384) is None


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
    assert "| 12 | AttnScale | 2 | 81.00 ± 0.71 | +0.00 [-3.04, +3.04] | 80.7 |" in text
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


def test_cells_without_the_metric_are_left_out_by_name(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 80.0, lines={"attn_scale": 0.1}, attnscale=True)
    result = study(tmp_path, "attn_scale")
    assert [cell.technique for cell in result.cells] == ["attnscale"]
    assert result.notes[0] == "deit_s, 12 blocks, plain: left out, its runs have no attn_scale."
    with pytest.raises(ValueError, match="metric=token_similarity: the last line of"):
        study(tmp_path, "token_similarity")


def test_data_of_one_name_and_another_size_is_not_averaged(write: Write, tmp_path: Path) -> None:
    write("a", 80.0)
    write("b", 80.0, seed=1, lines={"step": 40})
    with pytest.raises(ValueError, match=r"steps an epoch: 10\.0 \(a\) against 20\.0 \(b\)"):
        study(tmp_path)


def test_what_was_monitored_differently_is_not_averaged(write: Write, tmp_path: Path) -> None:
    for seed, images in enumerate((8, 64)):
        write(f"run{seed}", 80.0, seed=seed, lines={"hf_dc_ratio": 1.0}, monitor={"images": images})
    assert len(study(tmp_path).cells[0].runs) == 2, "of no consequence for the accuracy"
    with pytest.raises(ValueError, match=r"monitor\.images: 8 \(run0\) against 64 \(run1\)"):
        study(tmp_path, "hf_dc_ratio")


def test_a_cell_of_unknown_depth_is_called_by_its_model(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, model={"name": "vit_small_patch16_224"}, attnscale=True)
    assert study(tmp_path).notes[0].startswith("vit_small_patch16_224, attnscale: no finished plain run")


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


def test_every_skip_gain_is_compared_with_its_own_plain_runs(write: Write, tmp_path: Path) -> None:
    for gain, plain in ((1.0, 80.0), (0.5, 20.0)):
        write(f"plain{gain}", plain, skip_gain=gain)
        write(f"scaled{gain}", plain + 3, skip_gain=gain, attnscale=True)
    cells = study(tmp_path).cells
    assert [(cell.model, cell.mean) for cell in cells] == [
        ("deit_s", 80.0), ("deit_s", 83.0), ("deit_s-r0.5", 20.0), ("deit_s-r0.5", 23.0)
    ]  # fmt: skip
    assert [cell.difference.value for cell in cells if cell.difference] == [3.0, 3.0]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "config.yaml is no file": lambda run: ((run / "config.yaml").unlink(), (run / "config.yaml").mkdir()),
    "no YAML": lambda run: (run / "config.yaml").write_text("model: [deit"),
    "aliases are refused": lambda run: (run / "config.yaml").write_text("a: &a [x, x]\nb: [*a, *a]\n"),
    "not the keys": lambda run: (run / "config.yaml").write_text("text\n"),
    "nested too deeply": lambda run: (run / "config.yaml").write_text("[" * 20000),
    "larger than": lambda run: (run / "config.yaml").write_text("a: " + "x" * 1_000_001),
    "model.name is missing": lambda run: (run / "config.yaml").write_text("{model: 3, data: {name: a}}"),
    "epochs='ten' is not int": lambda run: replace_in(run / "config.yaml", "epochs: 2", "epochs: ten"),
    "metrics.jsonl is no file": lambda run: ((run / "metrics.jsonl").unlink(), (run / "metrics.jsonl").mkdir()),
    "epoch='1'": lambda run: (run / "metrics.jsonl").write_text('{"epoch": "1", "step": 2}\n'),
    "environment.json is no file": lambda run: (run / "environment.json").mkdir(),
    "no list of sessions": lambda run: (run / "environment.json").write_text('{"sessions": 3}'),
}


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_run_folder_is_named_and_the_others_are_reported(write: Write, tmp_path: Path, reason: str) -> None:
    write("good", 80.0)
    DAMAGE[reason](write("bad", 81.0, seed=1))
    result = study(tmp_path)
    assert [run.path.name for run in result.cells[0].runs] == ["good"]
    (damaged,) = result.unreadable
    assert damaged.path == tmp_path / "bad"
    assert str(damaged.path) in damaged.reason
    assert reason in damaged.reason


def test_what_a_run_folder_holds_is_data(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    folder = write("a", 80.0)
    replace_in(folder / "config.yaml", "name: imagenet", "name: ${oc.env:SECRET}/../../x")
    files = write_report(study(tmp_path), tmp_path / "report")
    assert all(file.parent == tmp_path / "report" for file in files)
    assert not any("hunter2" in file.name or "hunter2" in file.read_text(errors="replace") for file in files)


def test_numbers_are_read_as_omegaconf_writes_them(write: Write, tmp_path: Path) -> None:
    write("a", 80.0, recipe={"lr": 1e-5})
    assert study(tmp_path).cells[0].runs[0].config["recipe.lr"] == 1e-5


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
