"""How a sweep's job ends: requeued where SLURM still lets it, reported where it failed; and that it can be sent."""

import pickle
from pathlib import Path

import pytest

from vitaos.assembly.schemas import ANALYZE_SCHEMA, EVAL_SCHEMA, TRAIN_SCHEMA
from vitaos.runtime import preemption
from vitaos.runtime import submitit as sweep_jobs

SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
case "$1" in
    show) echo "JobId=7 Restarts=0 JobState={state} Reason=None" ;;
    requeue) echo "requeueing is not allowed" >&2; exit {refusal} ;;
esac
"""


class Scontrol:
    """A stand-in for SLURM's command that writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.calls, self.program = folder / "calls", folder / "scontrol"

    def install(self, *, state: str = "RUNNING", refusal: int = 0) -> None:
        self.program.write_text(SCONTROL.format(calls=self.calls, state=state, refusal=refusal))
        self.program.chmod(0o755)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    return Scontrol(tmp_path)


def test_a_preempted_job_requeues_itself_once(scontrol: Scontrol) -> None:
    scontrol.install()
    with pytest.raises(SystemExit) as ending:
        sweep_jobs.end(preemption.EXIT_PREEMPTED)
    assert ending.value.code == preemption.EXIT_PREEMPTED
    assert scontrol.calls.read_text().splitlines() == ["show job -o 7", "requeue 7"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_a_job_that_slurm_ends_is_left_to_it(scontrol: Scontrol, state: str) -> None:
    scontrol.install(state=state)
    with pytest.raises(SystemExit):
        sweep_jobs.end(preemption.EXIT_PREEMPTED)
    assert "requeue" not in scontrol.calls.read_text()


def test_only_the_main_rank_requeues_and_no_other_ends_the_step(
    scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol.install()
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit) as ending:
        sweep_jobs.end(preemption.EXIT_PREEMPTED)
    assert ending.value.code == 0
    assert not scontrol.calls.exists()


def test_what_went_wrong_is_reported(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol.install(refusal=1)
    with pytest.raises(sweep_jobs.JobFailedError, match="requeueing is not allowed"):
        sweep_jobs.end(preemption.EXIT_PREEMPTED)
    with pytest.raises(sweep_jobs.JobFailedError, match="exit status 3"):
        sweep_jobs.end(3)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    with pytest.raises(sweep_jobs.JobFailedError, match="state is saved"):
        sweep_jobs.end(preemption.EXIT_PREEMPTED)


@pytest.mark.parametrize("schema", [TRAIN_SCHEMA, EVAL_SCHEMA, ANALYZE_SCHEMA])
def test_configurations_are_found_by_a_job_on_another_machine(schema: type) -> None:
    assert pickle.loads(pickle.dumps(schema)) is schema
