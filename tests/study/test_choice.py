"""The choice of a tuned key: on held-out images, never on the reported ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.run_folders import TECHNIQUE_FLAGS, Write, identify
from vitaos.study.cells import build_study, depth_differences
from vitaos.study.choice import choose_by_held_out, values_of
from vitaos.study.choice_report import draw_choices
from vitaos.study.report import write_report
from vitaos.study.runs import Run, read_runs


def runs_in(folder: Path) -> list[Run]:
    folders = [path for path in folder.iterdir() if path.is_dir()]
    return read_runs(folders, technique_flags=TECHNIQUE_FLAGS, identify=identify)[0]


def tuned(write: Write, name: str, top1: float, held_out: float, rate: float, **changes: object) -> None:
    """A run with this rate, its reported accuracy, and that on held-out images."""
    folder = write(name, top1, recipe={"lr": rate, "name": "deit_12"}, **changes)
    (folder / "held_out").mkdir()
    weights = {"raw": {"top1": held_out}}
    (folder / "held_out" / "ffcv-val.json").write_text(json.dumps({"weights": weights}))


def test_each_technique_has_the_rate_that_is_best_on_held_out_images(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        tuned(write, f"plain-low-{seed}", 70.0 + seed, 60.0, 1e-4, seed=seed)
        tuned(write, f"plain-high-{seed}", 90.0 + seed, 50.0, 1e-3, seed=seed)  # better only on what is reported
        tuned(write, f"scaled-low-{seed}", 71.0 + seed, 50.0, 1e-4, seed=seed, attnscale=True)
        tuned(write, f"scaled-high-{seed}", 75.0 + seed, 65.0, 1e-3, seed=seed, attnscale=True)
    left, choices = choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    assert sorted(run.path.name for run in left) == ["plain-low-0", "plain-low-1", "scaled-high-0", "scaled-high-1"]
    assert choices[0].line.startswith("deit_s, 12 blocks, plain: recipe.lr=0.0001, best on held-out images of")
    assert "0.001: 50.00% (n = 2)" in choices[0].line
    study = build_study(left, technique_flags=TECHNIQUE_FLAGS, tuned=["recipe.lr"])
    (scaled,) = [cell for cell in study.cells if cell.technique == "attnscale"]
    assert scaled.difference is not None
    assert scaled.difference.value == pytest.approx(5.0)


def test_an_earlier_step_is_no_accuracy_of_the_last_weights(write: Write, tmp_path: Path) -> None:
    """As where a run went on after it was judged."""
    tuned(write, "low", 70.0, 60.0, 1e-4)
    tuned(write, "high", 80.0, 50.0, 1e-3)
    (last,) = {run.metrics[-1]["step"] for run in runs_in(tmp_path)}
    judged = tmp_path / "low" / "held_out" / "ffcv-val.json"
    choose_by_held_out(runs_in(tmp_path), "recipe.lr")  # nothing says which step it was
    for said in ({"step": last}, {"checkpoint": f"low/checkpoints/step-{last:08d}.pt"}):
        judged.write_text(json.dumps({"weights": {"raw": {"top1": 60.0}}, **said}))
        choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    for said in ({"step": last - 1}, {"checkpoint": f"low/checkpoints/step-{last - 1:08d}.pt"}):
        judged.write_text(json.dumps({"weights": {"raw": {"top1": 60.0}}, **said}))
        with pytest.raises(ValueError, match=f"judges step {last - 1} of .*low, which has gone on to step {last}"):
            choose_by_held_out(runs_in(tmp_path), "recipe.lr")


def test_one_value_needs_no_choice_and_no_held_out_images(write: Write, tmp_path: Path) -> None:
    write("plain", 70.0)
    write("unfinished", 60.0, done=1, seed=1, recipe={"lr": 1.0, "name": "deit_12"})
    left, choices = choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    assert (len(left), [len(choice.trials) for choice in choices]) == (2, [1])


def test_a_value_with_too_few_seeds_is_shown_and_not_taken(write: Write, tmp_path: Path) -> None:
    for seed in range(4):
        tuned(write, f"high-{seed}", 70.0 + seed, 50.0, 1e-3, seed=seed)
    for seed in range(3):
        tuned(write, f"low-{seed}", 70.0 + seed, 55.0, 1e-4, seed=seed)
    tuned(write, "lucky", 80.0, 60.0, 1e-5)
    left, (choice,) = choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    assert [run.path.name for run in left] == ["low-0", "low-1", "low-2"]
    assert choice.line.endswith("0.001: 50.00% (n = 4); with too few seeds to be taken: 1e-05.")


def test_a_choice_without_held_out_accuracies_names_the_run_and_the_command(write: Write, tmp_path: Path) -> None:
    tuned(write, "low", 70.0, 60.0, 1e-4)
    write("high", 71.0)
    with pytest.raises(ValueError, match=r"high: no accuracy on held-out images .*python eval\.py checkpoint="):
        choose_by_held_out(runs_in(tmp_path), "recipe.lr")


def test_a_key_that_no_run_has_is_refused(write: Write, tmp_path: Path) -> None:
    write("plain", 70.0)
    with pytest.raises(ValueError, match=r"choose=recipe\.rate: no run has this key"):
        choose_by_held_out(runs_in(tmp_path), "recipe.rate")


def test_a_report_shows_all_values_tried_and_marks_the_taken_one(write: Write, tmp_path: Path) -> None:
    tuned(write, "low", 70.0, 60.0, 1e-4)
    tuned(write, "high", 90.0, 50.0, 1e-3)
    tuned(write, "scaled", 71.0, 50.0, 1e-4, attnscale=True)
    tuned(write, "collapsed", 20.0, 20.0, 1e-4, skip_gain=0.5)
    left, choices = choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    study = replace(build_study(left, technique_flags=TECHNIQUE_FLAGS, tuned=["recipe.lr"]), choices=tuple(choices))
    written = write_report(study, tmp_path / "report")
    report = written[0].read_text(encoding="utf-8")
    assert "| model | technique | 0.0001 | 0.001 |" in report
    assert "| deit_s, 12 blocks | plain | **70.00** (1) | 90.00 (1) |" in report
    assert "| deit_s, 12 blocks | AttnScale | **71.00** (1) |  |" in report
    assert "beside tuned ones: deit_s-r0.5, plain; deit_s, attnscale." in report
    assert "by `skip_gain`, each at the `recipe.lr` chosen for it on held-out images" in report
    figure = tmp_path / "report" / "choice_recipe.lr_deit_s_imagenet_12.png"
    assert figure in written
    assert figure.exists()


def test_depths_that_differ_in_a_tuned_rate_alone_are_comparable(write: Write, tmp_path: Path) -> None:
    for depth, best in ((12, 1e-3), (24, 1e-4)):
        for rate in (1e-3, 1e-4):
            tuned(write, f"{depth}-{rate}", 70.0, 60.0 if rate == best else 50.0, rate, depth=depth)
    left, choices = choose_by_held_out(runs_in(tmp_path), "recipe.lr")
    study = build_study(left, technique_flags=TECHNIQUE_FLAGS, tuned=["recipe.lr"])
    shallow, deep = study.cells
    assert depth_differences(study, shallow, deep).startswith("recipe.lr: 0.001 ")
    assert not depth_differences(replace(study, choices=tuple(choices)), shallow, deep)


def test_values_that_are_lists_or_words_are_told_apart(write: Write, tmp_path: Path) -> None:
    for name, betas, held_out in (("a", [0.9, 0.99], 50.0), ("b", [0.9, 0.999], 60.0)):
        folder = write(name, 70.0, recipe={"betas": betas, "name": "deit_12"})
        (folder / "held_out").mkdir()
        weights = {"raw": {"top1": held_out}}
        (folder / "held_out" / "ffcv-val.json").write_text(json.dumps({"weights": weights}))
    left, choices = choose_by_held_out(runs_in(tmp_path), "recipe.betas")
    assert [run.path.name for run in left] == ["b"]
    assert values_of(choices) == [(0.9, 0.99), (0.9, 0.999)]
    study = replace(build_study(left, technique_flags=TECHNIQUE_FLAGS, tuned=["recipe.betas"]), choices=tuple(choices))
    assert draw_choices(study, tmp_path)[0].exists()
