"""Launches and bytes of a training step by phase, held in counts.json: growth is to be seen, and meant.

``NULL_GPU_KEEP_COUNTS=1 pytest tests/null_gpu/test_counts.py`` writes the counts of today into the file.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from tests.null_gpu.launch import lines_of

KEPT: Final = Path(__file__).parent / "counts.json"
TOLERANCE: Final = 0.02


def test_a_step_launches_and_moves_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    found = {line.pop("case"): line["counts"] for line in lines_of("tests.null_gpu.programs.counts")}
    with capsys.disabled():
        for case, phases in found.items():
            times = ", ".join(f"{phase} {counts.pop('host_milliseconds')}" for phase, counts in phases.items())
            print(f"\n{case}: host milliseconds of a step: {times}", end="")
    version = torch.__version__.split("+")[0].rpartition(".")[0]
    if os.environ.get("NULL_GPU_KEEP_COUNTS"):
        KEPT.write_text(json.dumps({"torch": version, "counts": found}, indent=1) + "\n")
    kept = json.loads(KEPT.read_text())
    if kept["torch"] != version:
        pytest.skip(f"the counts were made with torch {kept['torch']}, this is {version}")
    assert differences(kept["counts"], found) == []


def differences(kept: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs by more than the tolerance, either way: a gain is worth keeping too."""
    told = [f"{case}: kept or found, not both" for case in kept.keys() ^ found.keys()]
    for case in kept.keys() & found.keys():
        for phase, counts in kept[case].items():
            for name, before in counts.items():
                now = found[case][phase][name]
                if abs(now - before) > TOLERANCE * before:
                    told.append(f"{case}, {phase}: {name} was {before}, is {now}")
    return sorted(told)


def test_growth_is_told() -> None:
    kept = {"a": {"forward": {"launches": 100, "kilobytes_an_image": 1000}}}
    assert differences(kept, {"a": {"forward": {"launches": 101, "kilobytes_an_image": 985}}}) == []
    (told,) = differences(kept, {"a": {"forward": {"launches": 100, "kilobytes_an_image": 1030}}})
    assert told == "a, forward: kilobytes_an_image was 1000, is 1030"
    assert len(differences(kept, {"b": kept["a"]})) == 2
