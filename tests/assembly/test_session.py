"""One start of a run: its summary, what it writes, and what is missing at its end."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.commands.conftest import compose_digits
from vitaos.assembly import builders, session, start
from vitaos.outputs.run_dir import RunDir
from vitaos.runtime.world import World

ALONE = World(0, 1, 0, torch.device("cpu"))


def test_outputs_write_the_run_and_notice_its_removal(digits_root: Path, tmp_path: Path) -> None:
    config = compose_digits(digits_root, "depth=1", "attnscale=true", f"out={tmp_path}")
    loaders = builders.build_loaders(config, ALONE)
    folder = RunDir(tmp_path / "a")
    folder.open("auto")
    model = builders.build_model(config, loaders.num_classes)
    with session.Outputs(config, folder, ALONE, loaders, None) as outputs:
        outputs.log(session.run_summary(config, ALONE, loaders, model))
        assert outputs.finish() == []
        assert {"config.yaml", "log.txt", "environment.json"} <= {path.name for path in folder.path.iterdir()}
        shown = (folder.path / "log.txt").read_text()
        assert "(attnscale)" in shown
        assert "10 classes, 1,437 images an epoch, 360 held out" in shown
        shutil.rmtree(folder.path)
        assert any("was removed while the run went on" in message for message in outputs.finish())
    folder.close()
    loaders.close()


def test_other_ranks_write_nothing(digits_root: Path, tmp_path: Path) -> None:
    config = compose_digits(digits_root, "depth=1", f"out={tmp_path}")
    loaders = builders.build_loaders(config, ALONE)
    with session.Outputs(config, RunDir(tmp_path / "a"), World(1, 2, 0, torch.device("cpu")), loaders, None) as outputs:
        outputs.log("nothing")
        assert outputs.checkpoints is None
        assert outputs.finish() == []
    assert not (tmp_path / "a").exists()
    loaders.close()


def test_a_complaint_of_the_main_rank_reaches_the_user() -> None:
    def refuse() -> None:
        raise ValueError("the folder is in use")

    with pytest.raises(ValueError, match="in use"):
        start.on_main(ALONE, refuse)
    assert start.on_main(ALONE, lambda: 3) == 3
