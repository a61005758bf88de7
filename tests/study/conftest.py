"""A writer of run folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.study.run_folders import TECHNIQUE_FLAGS, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run folder: ``write("a", 80.0, seed=1, attnscale=True)``."""

    def write_run(
        name: str, top1: float, *, done: int = 2, lines: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        config = {
            "model": {"name": "deit_s12", "keywords": {}},
            "depth": None,
            "data": {"name": "imagenet", "img_size": 224, "root": f"/data/{name}", "workers": 4},
            "recipe": {"lr": 5e-4, "name": "deit_12"},
            "logger": {"name": "none"},
            "epochs": 2,
            "steps": None,
            "batch_size": 256,
            "accumulate": 1,
            "seed": 0,
            "name": name,
            "out": "runs",
            **dict.fromkeys(TECHNIQUE_FLAGS, False),
        }
        folder = tmp_path / name
        folder.mkdir()
        OmegaConf.save(OmegaConf.merge(config, changes), folder / "config.yaml")
        epochs = [
            {"epoch": epoch, "step": 10 * (epoch + 1), "val_top1": top1 - (done - 1 - epoch), "train_loss": 2.0}
            | (lines or {})
            for epoch in range(done)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
        return folder

    return write_run
