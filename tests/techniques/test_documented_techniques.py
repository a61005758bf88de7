"""docs/techniques.md against the registry: its tables name every technique, with the parameters that it really adds."""

import re
from pathlib import Path

import pytest
import torch

import vitaos
from vitaos.techniques import TECHNIQUES

PAGE = (Path(__file__).parents[2] / "docs" / "techniques.md").read_text()


def table(first_cells: str) -> list[dict[str, str]]:
    """Rows of the table whose head begins with these cells: name of the column -> cell."""
    lines = PAGE.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first_cells))
    heads, rows = _cells(lines[start]), []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = _cells(line)
        assert len(cells) == len(heads), line
        rows.append(dict(zip(heads, cells, strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names(rows: list[dict[str, str]]) -> list[str]:
    return [name for row in rows for name in re.findall(r"`(\w+)`", row["flag"])]


PLAIN = 22_050_664  # parameters of a DeiT-S/12, as in timm and on the page
METHODS = {name: row for row in table("| flag | equation") for name in names([row])}


def test_the_tables_name_every_technique_once() -> None:
    for head in ("| flag | equation", "| flag | slot"):
        assert sorted(names(table(head))) == sorted(TECHNIQUES), head
    assert f'`create_model("deit_s12")`\'s {PLAIN:,} parameters' in PAGE


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_row_says_what_the_registry_says(name: str) -> None:
    technique, row = TECHNIQUES[name], METHODS[name]
    with torch.device("meta"):
        model = vitaos.create_model("deit_s12", **{name: True})
    added = sum(value.numel() for value in model.parameters()) - PLAIN
    assert int(row["on DeiT-S/12"].replace(",", "")) == added
    assert (row["starts from"] == "identity") == (technique.start == "identity")
    assert all(f"`{option}`" in row["options"] for option in technique.options), row["options"]
    for kind in ("ViT", "CaiT", "Swin"):
        assert (kind in row["backbones"]) == (kind not in technique.refuses), kind
    for end in technique.parameters:
        assert any(end.startswith(told.rstrip("*")) for told in re.findall(r"`([\w.*]+)`", row["parameters"])), end
    source = Path(vitaos.__file__).parent / "techniques" / f"{name}.py"
    assert "Source" in source.read_text().split('"""')[1], "the file's head names no source"
