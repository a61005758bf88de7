"""Reading a study back: what may be averaged, and what it is compared with."""

import json
import math
import statistics
from pathlib import Path

import pytest
from scipy.stats import t as student_t

from tests.study.run_folders import Write, study
from vitaos.study.cells import welch_difference
from vitaos.study.labels import technique_title


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


def test_data_of_one_name_in_two_places_is_told_apart(write: Write, tmp_path: Path) -> None:
    write("of an older version", 80.0, seed=3)
    for seed, classes in enumerate(("6a6ae2", "6a6ae2", "65d19e")):
        folder = write(f"s{seed}", 80.0, seed=seed)
        (folder / "environment.json").write_text(json.dumps({"sessions": [{"data": classes}]}))
        if seed == 1:
            assert len(study(tmp_path).cells[0].runs) == 3
    with pytest.raises(ValueError, match=r"classes of the data: 6a6ae2 .* against 65d19e"):
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


def test_every_skip_gain_is_compared_with_its_own_plain_runs(write: Write, tmp_path: Path) -> None:
    for gain, plain in ((1.0, 80.0), (0.5, 20.0)):
        write(f"plain{gain}", plain, skip_gain=gain)
        write(f"scaled{gain}", plain + 3, skip_gain=gain, attnscale=True)
    cells = study(tmp_path).cells
    assert [(cell.model, cell.mean) for cell in cells] == [
        ("deit_s", 80.0), ("deit_s", 83.0), ("deit_s-r0.5", 20.0), ("deit_s-r0.5", 23.0)
    ]  # fmt: skip
    assert [cell.difference.value for cell in cells if cell.difference] == [3.0, 3.0]


def test_a_run_whose_metric_is_no_number_is_listed_and_the_others_are_reported(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((80.0, "high", None, True)):
        lines = write(f"s{seed}", 80.0, seed=seed) / "metrics.jsonl"
        *earlier, last = lines.read_text().splitlines()
        lines.write_text("\n".join([*earlier, json.dumps(json.loads(last) | {"val_top1": value})]) + "\n")
    found = study(tmp_path, "val_top1")
    assert found.cells[0].values == (80.0,)
    assert [run.path.name for run in found.unreadable] == ["s1", "s2", "s3"]
    assert "no finite number in the last line of metrics.jsonl" in found.unreadable[0].reason


def test_a_run_that_was_continued_with_other_epochs_is_no_straight_one(write: Write, tmp_path: Path) -> None:
    start = {"epochs": 1, "from_step": 0}
    given_up, goes_on = ({"epochs": epochs, "from_step": 10, "resumed_from": "last.pt"} for epochs in (9, 2))
    for seed, sessions in enumerate(([{"epochs": 2, "from_step": 0}], [start, given_up, goes_on])):
        folder = write(f"run{seed}", 80.0, seed=seed)
        (folder / "environment.json").write_text(json.dumps({"sessions": sessions}))
    with pytest.raises(ValueError, match=r"epochs: \d+ \(run0\) against 1, then 2 \(run1\)"):
        study(tmp_path)
    started_anew = [start, {"epochs": 2, "from_step": 0, "resumed_from": None}]
    (folder / "environment.json").write_text(json.dumps({"sessions": started_anew}))
    assert study(tmp_path).cells[0].runs[1].planned_epochs == (2,)
    (folder / "environment.json").write_text(json.dumps({"sessions": [{"epochs": [1]}]}))
    assert [damaged.path.name for damaged in study(tmp_path).unreadable] == ["run1"]
