"""A SLURM of two nodes on this machine: real daemons, with folders and ports of their own."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
HANGS = 180.0  # seconds; a job takes 15, on a busy machine several times that

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=1000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """The reason why there can be no cluster here."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons start jobs as root only"


class Cluster:
    """What a user does on a cluster. Use `running`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            # The nodes' names do not resolve, and jobs inherit this.
            "MASTER_ADDR": "127.0.0.1",
        }

    def run(self, *command: str, timeout: float = 60) -> str:
        """Standard output of one of SLURM's commands."""
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """All jobs by id, those of an array as ARRAY_TASK, as scontrol shows them."""
        shown = self.run("scontrol", "--oneliner", "show", "job")
        found = {}
        for line in shown.splitlines():
            job = dict(re.findall(r"(\w+)=(\S*)", line))
            array = job.get("ArrayJobId")
            found[f"{array}_{job['ArrayTaskId']}" if array else job.get("JobId", "")] = job
        found.pop("", None)
        return found

    def await_end(self, job: str) -> dict[str, str]:
        """The job once it has ended; a requeued one is not left to wait for its two minutes."""
        end = time.monotonic() + HANGS
        while (now := self.jobs()[job])["JobState"] not in ENDED:
            assert time.monotonic() < end, f"does not end: {now}\n{self.log()}"
            self.hurry(job)
            time.sleep(0.2)
        return now

    def hurry(self, job: str) -> None:
        """Start a requeued job soon."""
        now = self.jobs()[job]
        if now["JobState"] == "PENDING" and now["Reason"] == "BeginTime":
            # In the second of its end a node takes the new start for the old one: the job fails
            # with "credential revoked".
            time.sleep(2)
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def clear(self) -> None:
        """End the jobs that a failed test has left: those after it would wait for their nodes."""
        for options in (("--signal=KILL", "--full"), ()):
            subprocess.run(
                ["scancel", *options, "--user=root"],
                env=self.environment,
                timeout=60,
                check=False,
            )
        _await(lambda: _idle(self), "end of the jobs")

    def log(self) -> str:
        """The end of what slurmctld says."""
        return (self.folder / "slurmctld.log").read_text()[-2000:]


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster with idle nodes; its daemons and its jobs end with the block, or with us."""
    cluster = Cluster(folder)
    for name in ("munge", "state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o400)
    text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=_free_ports(3))
    (folder / "slurm.conf").write_text(text)
    munge = folder / "munge"
    places = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        # --force: pytest's folders are closed to others, which munged warns of.
        _start(cluster, daemons, "munged", "-F", "--force", f"--socket={munge}/socket", *places)
        _await((munge / "socket").exists, "munged")
        _start(cluster, daemons, "slurmctld", "-D")
        for node in ("n1", "n2"):
            _start(cluster, daemons, "slurmd", "-D", "-N", node)
        _await(lambda: _idle(cluster), "idle nodes")
        yield cluster
    finally:
        _stop(cluster, daemons)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _start(
    cluster: Cluster, daemons: list["subprocess.Popen[bytes]"], name: str, *arguments: str
) -> None:
    program = _program(name)
    assert program is not None
    with (cluster.folder / f"{name}{len(daemons)}.out").open("wb") as output:
        daemons.append(
            subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *arguments],
                env=cluster.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        )


def _idle(cluster: Cluster) -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.split() == ["idle", "idle"]


def _await(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.1)


def _stop(cluster: Cluster, daemons: list["subprocess.Popen[bytes]"]) -> None:
    if len(daemons) == 4:
        cluster.clear()
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(20)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
