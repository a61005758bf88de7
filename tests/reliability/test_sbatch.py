"""What the batch script itself decides, with SLURM's commands stood in for; ``test_slurm.py`` has a real SLURM."""

import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
STAND_INS = {
    "srun": 'echo "cores ${SRUN_CPUS_PER_TASK:-none}"; touch "$STARTED"; exec sleep 60',
    "scancel": "pkill -TERM -f '^sleep 60$' -P \"$(cat $OWNER)\"",
    "scontrol": 'case "$1 $2" in "show job") echo "JobId=7 JobState=RUNNING Reason=None";; "show hostnames") echo a;; '
    '*) echo "asked for: $*";; esac',
}


def start(folder: Path) -> tuple[int, str]:
    """Run the script, warn it as soon as its step is there and before that listens; its status and what it said."""
    started, owner = folder / "started", folder / "owner"
    started.unlink(missing_ok=True)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "a",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "6",
        "STARTED": str(started),
        "OWNER": str(owner),
    }
    with subprocess.Popen(
        ["bash", str(SCRIPT)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        owner.write_text(str(job.pid))
        while not started.exists():
            assert job.poll() is None
        job.send_signal(signal.SIGUSR1)
        said, _ = job.communicate(timeout=60)
    return job.returncode, said


def test_a_job_that_is_warned_before_its_run_listens_is_not_requeued_for_ever(tmp_path: Path) -> None:
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for _ in range(2):
        status, said = start(tmp_path)
        assert status == 75, said
        assert "asked for: requeue 7" in said
        assert "cores 6" in said  # srun takes them over from nowhere else
    status, said = start(tmp_path)
    assert status == 128 + signal.SIGTERM, said
    assert "three times in a row: it needs a longer --time" in said
    assert "requeue" not in said
    assert not list(tmp_path.glob(".vitaos-*"))
