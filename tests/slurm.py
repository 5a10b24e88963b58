"""A real Slurm of one node on this machine: munged, slurmctld and slurmd with all they write in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

COMMANDS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldParameters=preempt_send_user_signal
# The node has four CPUs because we say so, whatever the machine has.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MpiDefault=none
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10
"""  # noqa: E501


def missing() -> str:
    """Why a Slurm cannot be started here; empty if it can."""
    lacking = [command for command in COMMANDS if shutil.which(command, path=_PATH) is None]
    if lacking:
        return f"Slurm is not installed: no {', '.join(lacking)}"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


class Slurm:
    """Starts on entering, stops on leaving; `environment` makes Slurm's commands find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Slurm:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(host=host, ports=_free_ports(2), folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
        self.run("mungekey", "--create", "--keyfile", f"{self.folder}/munge.key")
        files = {n: f"{self.folder}/munge.{n}" for n in ("socket", "pid", "seed", "log")}
        self._start(
            "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key", f"--socket={files['socket']}",
            f"--pid-file={files['pid']}", f"--seed-file={files['seed']}", f"--log-file={files['log']}",
        )  # fmt: skip
        self._wait("munge's socket", lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-i")
        self._start("slurmd", "-D", "-N", host)
        self._wait("an idle node", lambda: "idle" in self.run("sinfo", "--noheader", "--format", "%T", check=False))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "--me"], env=os.environ | self.environment, check=False, capture_output=True)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *command: str, check: bool = True) -> str:
        """Output of one of Slurm's commands."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, check=check, capture_output=True, text=True).stdout

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("w") as log:
            environment = os.environ | self.environment
            self.daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def _wait(self, what: str, there: object, seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                logs = "\n".join(p.read_text()[-1500:] for p in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"no {what} after {seconds} seconds:\n{logs}")
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
