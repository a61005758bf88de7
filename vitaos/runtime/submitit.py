"""How a job ends that a sweep has started through submitit (``-m hydra/launcher=slurm``): requeued, failed, or done.

submitit listens to SLURM's announcement of the end (SIGUSR2) by requeueing at once, in the middle of a step. A run
listens to it itself (:class:`vitaos.runtime.preemption.Preemption` takes the handler's place), saves, leaves with
status 75, and is requeued here: SLURM starts the job anew with the same pickled command, in the same folder.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

EXIT_PREEMPTED: Final = os.EX_TEMPFAIL  # as vitaos.runtime.preemption, which this part may not see


class JobFailedError(RuntimeError):
    """A job of a sweep ended with a status other than 0: what the waiting command line gets to see of it."""


def is_sweep_job(environment: Mapping[str, str]) -> bool:
    """Whether this process is one that submitit has started."""
    return "SUBMITIT_EXECUTOR" in environment


def end(status: int) -> None:
    """End a job that did not end well, in the way that submitit and SLURM understand.

    Raises:
        SystemExit: the run was preempted; SLURM starts it again. submitit notes nothing: whoever waits goes on waiting.
        JobFailedError: anything else; submitit reports it to the command line that waits.
    """
    if status != EXIT_PREEMPTED:
        raise JobFailedError(f"a run of the sweep ended with exit status {status}; its job's log shows why")
    if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
        raise JobFailedError("a run of the sweep was asked to leave; its state is saved, the same command goes on")
    if int(os.environ.get("SLURM_PROCID", "0")) != 0:
        sys.exit(0)  # any other status might make srun end rank 0 before it has requeued the job
    _requeue(os.environ["SLURM_JOB_ID"])
    sys.exit(status)


def _requeue(job: str) -> None:
    """Requeue a job that SLURM takes to be running; one that it requeues or cancels already is left to it."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, check=False)
    if shown.returncode == 0 and " JobState=RUNNING " not in shown.stdout:
        print("vitaos: the state is saved; SLURM has ended this job already", flush=True)
        return
    print("vitaos: the state is saved; requeueing", flush=True)
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise JobFailedError(
            f"this cluster does not requeue ({done.stderr.strip()}); the state is saved, the same command goes on"
        )
