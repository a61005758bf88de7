"""Real runs for the commands' tests: class folders of digits, and short trainings in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

import train
from vitaos import cli
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import TrainConfig

Run = Callable[..., int]


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the digits are written once for all tests of a worker."""
    return tmp_path_factory.mktemp("digits")


def compose_digits(root: Path, *overrides: str) -> TrainConfig:
    """The configuration of a tiny DeiT for a few steps on digits in class folders."""
    small = ["depth=2", "batch_size=64", "epochs=1", "steps=4", "device=cpu", "data.loader=folder", "data.workers=0"]
    arguments = ["data=digits", f"data.root={root}", *small, *overrides]
    return cli.compose(arguments, config_name="train", schema=TRAIN_SCHEMA)  # type: ignore[no-any-return]


@pytest.fixture
def run(digits_root: Path, tmp_path: Path) -> Run:
    """Train that model in this process; returns the exit status."""
    return lambda *overrides: train.main(compose_digits(digits_root, f"out={tmp_path}", *overrides))
