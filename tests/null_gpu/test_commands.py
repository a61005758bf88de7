"""train.py and eval.py on CUDA, without a GPU: evaluation, monitor, snapshots, resumption, and what they wait for.

The processes compute on the CPU in the device's memory (host_values.py), so that a run steers by true numbers.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.null_gpu.launch import run_or_skip

# A run means to wait for each tensor of a state that is brought to the device, and a few times at a start, an end of an
# epoch, a checkpoint, a line on the screen; never in a step, and nowhere as often as there are steps or batches.
STATE = ("train", "evaluate", "load_state", "load_state_dict", "load_optimizer_state", "_load", "look_at_start")
IN_A_STEP = ("_train_step", "add_gradient", "apply", "add", "loss_gradient", "decide", "update_average", "send")
STEPS = 8
MOST = 6


def command(words: list[str], events: Path) -> tuple[str, dict[str, int]]:
    """Run a command that has to end well; what it said, and what it waited for."""
    events.unlink(missing_ok=True)
    more = {"NULL_GPU_COMPUTE": "1", "NULL_GPU_EVENTS": str(events)}
    done = run_or_skip("-W", "error::UserWarning", *words, more=more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warning" not in done.stderr, done.stderr[-2000:]
    (line,) = (json.loads(line) for line in events.read_text().splitlines())
    assert line["launches"] > 100
    return done.stdout, line["events"]


def unexpected(events: dict[str, int]) -> list[str]:
    """Events within a step, or as often as there are steps or batches."""
    told = []
    for event, times in events.items():
        function = event.rpartition(" ")[2]
        if function in IN_A_STEP or (times > MOST and function not in STATE):
            told.append(f"{times} x {event}")
    return told


def test_a_run_is_trained_resumed_and_evaluated_without_waiting(tmp_path: Path) -> None:
    words = [
        "train.py", "data=digits", f"data.root={tmp_path / 'data'}", "data.loader=folder", "data.workers=1",
        "device=cuda", "model=deit_ti12", "+model.keywords.embed_dim=48", "depth=2", "precision=bf16", "attnscale=true",
        "featscale=true", "batch_size=16", "data.eval_batch_size=100", "log_every=4", "checkpoint_every=4",
        "monitor.every=1", f"out={tmp_path}", "name=one", "compile=false",
    ]  # fmt: skip
    events = tmp_path / "events.jsonl"
    said, waited = command([*words, f"steps={STEPS}"], events)
    assert "finished after 8 steps" in said
    assert unexpected(waited) == []
    said, waited = command([*words, f"steps={2 * STEPS}"], events)
    assert "at step 8" in said
    assert "finished after 16 steps" in said
    assert unexpected(waited) == []
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2 * STEPS]
    assert {"val_top1", "ema_top1", "token_similarity", "attn_scale"} <= set(lines[0])
    said, waited = command(
        ["eval.py", f"checkpoint={tmp_path / 'one'}", "device=cuda", "weights=both", "compile=false"], events
    )
    assert said.count("images 360") == 2
    assert unexpected(waited) == []
    evaluated: dict[str, Any] = json.loads((tmp_path / "one" / "evaluation" / "digits-val.json").read_text())
    assert evaluated


@pytest.mark.long
def test_the_doctor_sees_the_device(tmp_path: Path) -> None:
    done = run_or_skip("scripts/doctor.py", f"out={tmp_path}")
    assert done.returncode == 0, done.stdout
    assert "GPU 0: NVIDIA H100" in done.stdout
    assert re.search(r"driver: .*knows CUDA \d+\.\d", done.stdout)


def test_waiting_in_the_loop_would_be_told() -> None:
    assert len(unexpected({"wait (cudaStreamSynchronize) at vitaos/engine/trainer.py:7 _train_step": 1})) == 1
    assert len(unexpected({"wait (cudaEventSynchronize) at vitaos/engine/meter.py:29 values": STEPS})) == 1
    assert unexpected({"wait (cudaStreamSynchronize) at vitaos/engine/trainer.py:7 fit": 1}) == []
