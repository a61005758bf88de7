"""Figures and tables: there, complete, with every number, and nothing on top of anything else."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import Bbox
from small_backbones import sharpen, small_cait, small_swin, small_vit, with_techniques

from vitaos.analysis import figures
from vitaos.analysis.curves import gain_by_layer, similarity_to_previous
from vitaos.analysis.export import csv_rows, write_csv, write_summary
from vitaos.analysis.figures import caption, captioned_figure, drawings, save_figures
from vitaos.analysis.measure import measure
from vitaos.analysis.measured import Analysis
from vitaos.analysis.spectrum import high_frequency_gain
from vitaos.analysis.style import style

LABELS = ["deit_s12", "deit_s24_attnscale_featscale_seed0_a_very_long_name", "cait_xxs24", "swin_t"]


@pytest.fixture(scope="module")
def runs() -> list[Analysis]:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    models = [
        sharpen(small_vit()),
        with_techniques(sharpen(small_vit(depth=5))),
        with_techniques(sharpen(small_cait())),
        sharpen(small_swin()),
    ]
    return [measure(model, [images], label=label) for model, label in zip(models, LABELS, strict=True)]


def text_boxes(figure: Figure, area: SubFigure) -> list[tuple[str, Bbox]]:
    """Every visible text outside the axes' data area, with its place in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for axes in figure.axes if axes.get_visible() for t in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    # _update_ticks is the list of ticks that are drawn; get_ticklabels holds those outside the limits as well
    texts += [
        tick.label1
        for axes in figure.axes
        if axes.get_visible()
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
    ]
    texts += [t for legend in area.legends for t in legend.get_texts()]
    texts += [t for t in (area._supxlabel, area._supylabel) if t is not None]
    texts += [t for part in figure.subfigs for t in part.texts if t not in texts]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text() and t.get_visible()]


@pytest.mark.parametrize("chosen", [[0], [0, 1], [1, 2, 3, 0]])
def test_no_text_overlaps_or_leaves_the_figure(runs: list[Analysis], chosen: list[int]) -> None:
    some = [runs[index] for index in chosen]
    with style():
        for drawing in drawings(some):
            figure, area = captioned_figure(drawing.size, caption(some))
            drawing.draw(area, some)
            boxes = text_boxes(figure, area)
            page = figure.bbox.padded(2)
            for index, (text, box) in enumerate(boxes):
                corners = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
                assert corners, f"{drawing.name}: {text!r} leaves the figure"
                inner = Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)
                for other_text, other in boxes[index + 1 :]:
                    assert not inner.overlaps(other), f"{drawing.name}: {text!r} is on top of {other_text!r}"


def test_all_files_are_written(runs: list[Analysis], tmp_path: Path) -> None:
    files = save_figures(runs[2:3], tmp_path)
    names = {drawing.name for drawing in drawings(runs[2:3])}
    assert {"learned_scales", "class_attention", "spectral_response", "token_similarity"} < names
    assert {file.name for file in files} == {f"{name}.png" for name in names} | {"overview.png"}
    assert all(file.stat().st_size > 1000 for file in files)


def test_figures_are_had_as_pdf_too(runs: list[Analysis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = drawings(runs[:1])[:2]
    monkeypatch.setattr(figures, "drawings", lambda _: few)
    files = save_figures(runs[:1], tmp_path, pdf=True)
    assert [file.suffix for file in files] == [".png", ".pdf", ".png", ".pdf", ".png"]
    assert files[1].read_bytes().startswith(b"%PDF")


def test_figures_without_content_are_left_out(runs: list[Analysis]) -> None:
    names = {drawing.name for drawing in drawings(runs[:1])}
    assert not names & {"learned_scales", "class_attention"}


def test_csv_holds_every_number(runs: list[Analysis], tmp_path: Path) -> None:
    write_csv(runs, tmp_path / "numbers.csv")
    with (tmp_path / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = runs[1]
    mine = [row for row in rows if row["run"] == run.label]
    assert len(mine) == len(list(csv_rows(run)))
    similarity = [row for row in mine if row["measure"] == "token_similarity"]
    assert [int(row["block"]) for row in similarity] == list(range(6))
    assert float(similarity[3]["value"]) == pytest.approx(run.features[3].values["token_similarity"].mean, rel=1e-6)
    response = [
        float(row["value"])
        for row in mine
        if row["measure"] == "spectral_response_attnscale" and row["module"] == "blocks.2.attn" and row["head"] == "2"
    ]
    applied = run.attention[2].applied
    assert applied is not None
    np.testing.assert_allclose(response, applied[1], rtol=1e-5)
    assert {row["head"] for row in mine if row["measure"] == "attn_scale"} == {"1", "2", "3"}


def test_summary_is_plain_json(runs: list[Analysis], tmp_path: Path) -> None:
    write_summary(runs, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [run["run"] for run in summary] == LABELS
    last = runs[0].features[-1].values["hf_dc_ratio"].mean
    assert summary[0]["hf_dc_ratio"]["last_block"] == pytest.approx(last)
    assert "attn_scale" in summary[1]
    assert "attn_scale" not in summary[0]


def test_gain_is_that_of_the_response(runs: list[Analysis]) -> None:
    response = torch.from_numpy(runs[0].attention[1].response)
    assert gain_by_layer(runs[0], applied=False)[1] == pytest.approx(float(high_frequency_gain(response).mean()))
    assert set(gain_by_layer(runs[2], applied=True)) == {0, 1, 2}, "class attention has no output frequencies"


def test_previous_map_is_the_nearest_that_can_be_compared(runs: list[Analysis]) -> None:
    plain, cait = runs[0], runs[2]
    assert similarity_to_previous(plain) == {1: plain.map_similarity[1, 0], 2: plain.map_similarity[2, 1]}
    assert set(similarity_to_previous(cait)) == {1, 2, 4}, "the first class-attention map has nothing before it"
