"""A whole checkpoint of a tiny model on digits, made without training, for tests that change one thing in it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.conftest import compose_digits
from vitaos.assembly import builders, fingerprint
from vitaos.data.folder.digits import CLASS_NAMES, prepare_digits

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the written digits."""
    root = tmp_path_factory.mktemp("digits")
    prepare_digits(root)
    return root


@pytest.fixture(scope="session")
def whole_checkpoint(digits_root: Path) -> dict[str, Any]:
    """What a checkpoint file holds after no step; treat it as read-only."""
    config = compose_digits(digits_root, "depth=1", "recipe.ema_decay=null")
    model = builders.build_model(config, len(CLASS_NAMES))
    return {
        "format": "vitaos-1", "model": model.state_dict(), "ema": None, "optimizer": {}, "loss_scaler": None,
        "progress": {"step": 0}, "config": fingerprint.to_dict(config), "class_names": CLASS_NAMES,
    }  # fmt: skip


@pytest.fixture
def save_changed(whole_checkpoint: dict[str, Any], tmp_path: Path) -> Save:
    """Write that checkpoint with one entry (a dotted key) changed, and return its path."""

    def save(key: str, value: Any) -> Path:
        content = copy.deepcopy(whole_checkpoint)
        *sections, last = key.split(".")
        place: Any = content
        for section in sections:
            place = place[section]
        place[last] = value
        path = tmp_path / "changed.pt"
        torch.save(content, path)
        return path

    return save
