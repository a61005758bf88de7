"""benchmark.py roofline: its counts are those of the null GPU, and the experiment files say what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import roofline_command
from scripts.benchmarks.roofline import StepNeeds, count_step
from vitaos import cli
from vitaos import config as configuration
from vitaos.technique_names import TECHNIQUE_HELP

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = json.loads((ROOT / "tests" / "null_gpu" / "counts.json").read_text())["counts"]
FILES = sorted(
    file.stem for file in (ROOT / "configs" / "experiment").glob("*.yaml") if "H100-hours" in file.read_text()
)
SCHEMA = configuration.schema(roofline_command.RooflineConfig, TECHNIQUE_HELP)


def configuration_of(*words: str) -> Any:
    return cli.compose(list(words), config_name="train", schema=SCHEMA)


def needs_of(config: Any) -> StepNeeds:
    return count_step(config, roofline_command.classes_of(config))


@pytest.mark.parametrize("flags", [(), ("attnscale=true", "featscale=true")])
def test_deits_bytes_are_those_of_the_null_gpu(flags: tuple[str, ...]) -> None:
    """Kept with ten classes; launches of backward differ, since CUDA's kernels are not the CPU's."""
    config = configuration_of("model=deit_s12", "batch_size=16", *flags)
    needs, kept = count_step(config, 10), KEPT[f"deit_s12: {'both' if flags else 'plain'}"]
    for name in ("forward", "backward", "update"):
        part = getattr(needs, name)
        assert part.nbytes / 16e3 == pytest.approx(kept[name]["kilobytes_an_image"], rel=0.03)
        assert part.fused_nbytes < part.nbytes
    assert needs.forward.launches == pytest.approx(kept["forward"]["launches"], rel=0.02)
    assert needs.backward.flops == pytest.approx(2 * needs.forward.flops, rel=0.03)


def test_the_slowest_of_the_three_binds_and_gives_the_hours() -> None:
    small = ("data=digits", "model=deit_ti12", "depth=1", "data.img_size=32", "+model.keywords.patch_size=8")
    config = configuration_of(*small, "epochs=10", "images=1000", "precision=bf16")
    needs = needs_of(config)
    for key, binds in (("tflops", "compute"), ("terabytes_per_s", "memory"), ("launch_us", "launches")):
        setattr(config, key, 1e9 if key == "launch_us" else 1e-9)
        bound = roofline_command.bound_of(config, needs, compiled=False)
        assert bound.binds == binds
        assert bound.gpu_hours == pytest.approx(10 * 1000 / bound.images_per_s / 3600)
        setattr(config, key, 4.0 if key == "launch_us" else None)
    h100, a100 = (
        roofline_command.bound_of(configuration_of(*small, f"gpu={gpu}"), needs, compiled=True)
        for gpu in ("H100", "A100")
    )
    assert h100.compute > a100.compute
    assert h100.memory > a100.memory
    assert "at least" in roofline_command.table(config, needs)[-1]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "deit_s12" else pytest.mark.long) for name in FILES]
)
def test_an_experiments_hours_are_those_of_the_command(name: str) -> None:
    text = (ROOT / "configs" / "experiment" / f"{name}.yaml").read_text()
    said = re.search(
        r"# hours: +at least ([\d.]+) H100-hours in all \(bound, not measured: .* experiment=(\S+)\)", text
    )
    assert said is not None
    config = configuration_of(f"experiment={name}")
    bound = roofline_command.bound_of(config, needs_of(config), compiled=roofline_command.is_compiled(config))
    assert said[2] == name
    assert float(said[1]) == pytest.approx(bound.gpu_hours, rel=0.05)


def test_every_experiment_of_imagenet_has_hours() -> None:
    assert len(FILES) >= 20
    left = [file for file in (ROOT / "configs" / "experiment").glob("*.yaml") if "A100-hours" in file.read_text()]
    assert left == []
