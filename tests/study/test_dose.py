"""The dose-response: what is compared with what, how sure it is, and what is written."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tests.study.run_folders import Write, study
from vitaos.analysis.figures import new_figure
from vitaos.study.dose import build_dose_responses
from vitaos.study.dose_gains import compared, draw_gains, gains_size
from vitaos.study.leaderboard import build_leaderboards
from vitaos.study.report import write_report
from vitaos.study.significance import bootstrap_interval, holm, paired_interval

BY_BLOCK = {
    "token_similarity_by_block": [0.2, 0.9],
    "initial_token_similarity_by_block": [0.2, 0.4],
    "attn_scale_by_block": [0.1, 0.3],
}


@pytest.fixture
def grid(write: Write, tmp_path: Path) -> Callable[..., Path]:
    """Two doses, plain and AttnScale, three seeds."""

    def write_grid(**changes: Any) -> Path:
        for gain, plain, scaled in ((1.0, 80.0, 80.1), (0.5, 20.0, 30.0)):
            for seed in range(3):
                options = {"seed": seed, "skip_gain": gain, "lines": BY_BLOCK, **changes}
                write(f"plain{gain}-{seed}", plain + seed, **options)
                write(f"scaled{gain}-{seed}", scaled + 1.5 * seed, attnscale=True, **options)
        return tmp_path

    return write_grid


def test_each_dose_is_compared_with_the_plain_runs_of_that_dose(grid: Callable[..., Path]) -> None:
    (response,) = build_dose_responses(study(grid()))
    assert (response.model, response.data, response.depth) == ("deit_s", "imagenet", 12)
    assert response.doses == [1.0, 0.5]
    assert [(point.cell.technique, point.skip_gain) for point in response.of("attnscale")] == [
        ("attnscale", 1.0),
        ("attnscale", 0.5),
    ]
    ordinary, collapsed = response.of("attnscale")
    assert ordinary.cell.difference is not None
    assert collapsed.cell.difference is not None
    assert ordinary.cell.difference.value == pytest.approx(0.6)
    assert collapsed.cell.difference.value == pytest.approx(10.5)
    expected = ttest_ind([30.0, 31.5, 33.0], [20.0, 21.0, 22.0], equal_var=False).pvalue
    assert collapsed.p_value == pytest.approx(expected)  # one technique a dose: nothing to correct
    assert collapsed.monitored("token_similarity_by_block") == pytest.approx([0.2, 0.9])


def test_gains_have_a_panel_for_what_is_compared_at_two_doses(grid: Callable[..., Path], write: Write) -> None:
    folder = grid()
    write("once", 25.0, skip_gain=0.5, featscale=True)
    read = study(folder)
    (response,) = build_dose_responses(read)
    assert response.of("attnscale")[1].differences == pytest.approx((10.0, 10.5, 11.0)), "seed by seed"
    assert response.of("plain")[1].differences == ()
    assert compared(response, read.techniques) == ["attnscale"], "plain is the zero line, and one dose is no line"
    figure = new_figure(gains_size(1))
    draw_gains(figure, response, read.techniques, read.metric)
    (panel,) = figure.axes
    (line,) = [line for line in panel.get_lines() if list(line.get_xdata()) == [1.0, 0.5]]
    assert line.get_ydata() == pytest.approx([0.6, 10.5])
    faces = [line.get_markerfacecolor() for line in panel.get_lines() if line.get_marker() == "o"]
    assert faces[0] == "white" != faces[1], "what is not told from 0 is hollow"
    assert figure.get_suptitle().startswith("top-1; bars: 95% over seeds; dots: seed by seed; filled: p < 0.05")


def test_a_study_of_one_dose_has_a_leaderboard_and_no_response(write: Write, tmp_path: Path) -> None:
    write("plain", 80.0, skip_gain=0.5)
    write("scaled", 81.0, skip_gain=0.5, attnscale=True)
    names = {file.name for file in write_report(study(tmp_path), tmp_path / "report")}
    assert not [name for name in names if name.startswith(("dose", "leaderboard"))], "one technique is no ranking"
    for seed in range(3):
        write(f"better{seed}", 84.0 + seed, skip_gain=0.5, featscale=True, seed=seed)
    names = {file.name for file in write_report(study(tmp_path), tmp_path / "report")}
    assert [name for name in names if name.startswith(("dose", "leaderboard"))] == [
        "leaderboard_deit_s_imagenet_12_r0.5.png"
    ]
    text = (tmp_path / "report" / "report.md").read_text()
    board = text[text.index("## Leaderboard: deit_s on imagenet, 12 blocks, r = 0.5") :].splitlines()
    assert [line.split(" | ")[:2] for line in board[4:7]] == [
        ["| FeatScale", "3"],
        ["| AttnScale", "1"],
        ["| plain", "1"],
    ]
    (lowest_first,) = build_leaderboards(build_dose_responses(study(tmp_path)), "val_loss")
    assert [point.cell.technique for point in lowest_first.points] == ["attnscale", "featscale"]


def test_the_report_holds_tables_rows_and_pictures_of_it(grid: Callable[..., Path], tmp_path: Path) -> None:
    folder = grid()
    zeroed = {"1.0": ["80.0", "80.0", "damaged"], "0.5": ["12.0", "13.0", "14.0"]}
    for gain, accuracies in zeroed.items():
        for seed, top1 in enumerate(accuracies):
            evaluation = folder / f"scaled{gain}-{seed}" / "evaluation"
            evaluation.mkdir()
            (evaluation / "imagenet-val-zeroed.json").write_text(f'{{"weights": {{"raw": {{"top1": {top1}}}}}}}')
    files = {file.name for file in write_report(study(folder), tmp_path / "report")}
    assert {"dose.csv", "dose_deit_s_imagenet_12.png", "dose_blocks_deit_s_imagenet_12.png"} <= files
    assert {"dose_gains_deit_s_imagenet_12.png", "dose_learned_deit_s_imagenet_12.png"} <= files
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| technique | r = 1 | r = 0.5 |" in text
    assert "+10.50 [" in text
    assert "| 0.5 | AttnScale | 3 | 31.50 | 0.400 → 0.900 | ? → ? | +0.200 |  |  | 13.00 |" in text
    assert "| 1 | AttnScale | 3 | 81.60 | 0.400 → 0.900 | ? → ? | +0.200 |  |  |  |" in text, "one of three is damaged"
    with (tmp_path / "report" / "dose.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {row["n"] for row in rows} == {"3"}
    assert {row["end_token_similarity_last_block"] for row in rows} == {"0.9"}


def test_what_a_run_folder_names_its_data_leads_no_figure_out_of_the_report(grid: Callable[..., Path]) -> None:
    folder = grid(data={"name": "../../x"})
    report = folder / "report"
    assert all(file.parent == report for file in write_report(study(folder), report))


def test_predictions_by_image_give_a_paired_interval(grid: Callable[..., Path]) -> None:
    folder = grid()
    rng = np.random.default_rng(0)
    targets = rng.integers(10, size=400)
    for run in folder.iterdir():
        (run / "evaluation").mkdir()
        right = rng.random(400) < (0.6 if run.name.startswith("scaled") else 0.3)
        np.savez(run / "evaluation" / "imagenet-val-predictions.npz", target=targets, raw_correct=right)
    (response,) = build_dose_responses(study(folder))
    interval = response.of("attnscale")[0].bootstrap
    assert interval is not None
    assert 20 < interval[0] < 30 < interval[1] < 40
    assert response.of("plain")[0].bootstrap is None
    of_losses = replace(study(folder), metric="val_loss")
    assert build_dose_responses(of_losses)[0].of("attnscale")[0].bootstrap is None, "answers are no losses"
    judged = folder / "plain1.0-0" / "evaluation" / "imagenet-val.json"
    judged.write_text('{"step": 1}')
    assert build_dose_responses(study(folder))[0].of("attnscale")[0].bootstrap is None, "of an earlier step"
    judged.unlink()
    file = folder / "plain1.0-0" / "evaluation" / "imagenet-val-predictions.npz"
    for damaged in (b"PK damaged", file.read_bytes()[:-20]):
        file.write_bytes(damaged)
        assert build_dose_responses(study(folder))[0].of("attnscale")[0].bootstrap is None


def test_the_bootstrap_pairs_images_and_covers_what_is_known() -> None:
    rng = np.random.default_rng(1)
    same = rng.random((1, 500)) < 0.5
    assert bootstrap_interval(same, same) == (0.0, 0.0)  # paired: the very same answers differ in no resample
    one, other = rng.random((3, 2000)) < 0.5, rng.random((3, 2000)) < 0.5
    low, high = bootstrap_interval(one, other)
    width = 2 * 1.96 * 100 * (2 * 0.25 / (3 * 2000)) ** 0.5  # of independent answers of equally good seeds
    assert low < 100 * (one.mean() - other.mean()) < high
    assert 0.8 * width < high - low < 2.5 * width
    with pytest.raises(ValueError, match="500 against 2000 images"):
        bootstrap_interval(same, one)


def test_seeds_that_run_alike_tell_a_small_difference() -> None:
    """By hand: differences 0.2, 0.4 and 0.6 have mean 0.4, standard error 0.2 / sqrt(3) and a quantile of 4.3027."""
    plain = {0: 30.0, 1: 40.0, 2: 50.0, 7: 99.0}
    interval = paired_interval({2: 50.2, 0: 30.6, 1: 40.4, 8: 0.0}, plain)
    assert interval == pytest.approx((0.4 - 4.3027 * 0.2 / 3**0.5, 0.4 + 4.3027 * 0.2 / 3**0.5), abs=1e-4)
    assert paired_interval({0: 31.0, 8: 0.0}, plain) is None
    assert paired_interval({0: 31.0, 1: 41.0}, plain) is None, "alike to the last digit is no certainty"


def test_holm_is_the_published_rule() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # worked by hand
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
