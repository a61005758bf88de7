"""A real SLURM of two nodes on this one machine. Needs root and the packages slurm-wlm and munge."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")


def why_not() -> str | None:
    """The reason why there can be no cluster here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting SLURM's daemons takes root"
    return None


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Cluster:
    """Nodes n0 and n1, one CPU each. Everything it writes is below ``folder``; :meth:`stop` ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._started_munge = False
        self._start_munge()
        self._write_configuration()
        _run("slurmctld", "-c", SLURM_CONF=str(self.configuration))
        for node in ("n0", "n1"):
            _run("slurmd", "-N", node, SLURM_CONF=str(self.configuration))
        self._wait_until_idle()

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands against this cluster; its output."""
        return _run(*command, SLURM_CONF=str(self.configuration))

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``."""
        fields = self.call("scontrol", "show", "job", job).split()
        return next(field.partition("=")[2] for field in fields if field.startswith(f"{name}="))

    def wait(self, job: str, *states: str, patience_s: float = 180.0) -> str:
        """Wait until the job is in one of the states; which. A requeued job is spared SLURM's two minutes of rest."""
        deadline = time.monotonic() + patience_s
        while (state := self.field(job, "JobState")) not in states:
            assert time.monotonic() < deadline, f"job {job} is {state}, not {states}"
            if state == "PENDING":
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(1.0)
        return state

    def stop(self) -> None:
        for pid_file in self.folder.glob("*.pid"):
            pid = pid_file.read_text().strip()
            subprocess.run(["kill", pid], check=False)
        if self._started_munge:
            subprocess.run(["munged", "--stop"], check=False, capture_output=True)

    def _start_munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
            return
        if not Path("/etc/munge/munge.key").exists():
            _run("mungekey", "-c")
        Path("/run/munge").mkdir(exist_ok=True)
        _run("chown", "munge:munge", "/run/munge", "/etc/munge/munge.key")
        _run("runuser", "-u", "munge", "--", "munged")
        self._started_munge = True

    def _write_configuration(self) -> None:
        host = socket.gethostname().partition(".")[0]
        (self.folder / "state").mkdir()
        with (
            socket.create_server(("", 0)) as one,
            socket.create_server(("", 0)) as two,
            socket.create_server(("", 0)) as three,
        ):
            ports = [server.getsockname()[1] for server in (one, two, three)]
        self.configuration.write_text(
            f"""ClusterName=vitaos
SlurmctldHost={host}
SlurmctldPort={ports[2]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
MpiDefault=none
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool-%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=1 RealMemory=4000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
PartitionName=all Nodes=n0,n1 Default=YES MaxTime=60 State=UP
"""
        )

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while self.call("sinfo", "-h", "-o", "%t %D") != "idle 2":
            assert time.monotonic() < deadline, self.call("sinfo")
            time.sleep(0.5)
