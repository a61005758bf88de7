"""The tracker: offline without a login, the same run again after a resume, nested values as curves."""

from pathlib import Path

import pytest

from vitaos.outputs.loggers import WandbLogger, _has_login, numeric_leaves


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_a_login_is_found_where_wandb_puts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not _has_login()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert _has_login()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert _has_login()


def test_offline_without_a_login_and_the_same_run_again(tmp_path: Path) -> None:
    identities = []
    for step in (1, 2):
        logger = WandbLogger(tmp_path / "run", name="run", config={"attnscale": True})
        assert logger.mode == "offline"
        logger.log({"step": step, "loss": 1.0})
        logger.metrics({"step": step, "epoch": 0, "attn_scale_by_block": [0.1, 0.2]})
        identities.append(logger._run.id)
        logger.close()
    assert identities[0] == identities[1]
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) >= 1


def test_nested_values_become_one_curve_each() -> None:
    line = {"epoch": 1, "name": "x", "ok": True, "scale": [0.1, 0.2], "deep": {"loss": 2.0, "none": None}}
    assert numeric_leaves("epoch", line) == {
        "epoch/epoch": 1,
        "epoch/scale/00": 0.1,
        "epoch/scale/01": 0.2,
        "epoch/deep/loss": 2.0,
    }
