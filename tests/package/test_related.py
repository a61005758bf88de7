"""docs/related.md says which of timm's models techniques attach to: each row is tried."""

import re
from pathlib import Path

import pytest
import timm
import torch

import vitaos

PAGE = Path(__file__).resolve().parents[2] / "docs" / "related.md"


def rows() -> list[tuple[list[str], bool]]:
    """(timm's names, whether techniques attach) of every architecture."""
    table = PAGE.read_text(encoding="utf-8").split("## Architectures")[1].split("##")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    found = [(re.findall(r"`([\w.]+)`", names), not verdict.startswith("no")) for _, names, verdict in cells]
    return [(names, attaches) for names, attaches in found if names]


@pytest.mark.long
@pytest.mark.parametrize(("names", "attaches"), rows(), ids=lambda value: value[0] if isinstance(value, list) else "")
def test_what_the_page_says_of_timms_models_is_so(names: list[str], attaches: bool) -> None:
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        if attaches:
            assert vitaos.techniques.attached(vitaos.attach(model, attnscale=True)) == {"attnscale": {}}
        else:
            with pytest.raises(ValueError, match="Techniques cannot be attached"):
                vitaos.attach(model, attnscale=True)
