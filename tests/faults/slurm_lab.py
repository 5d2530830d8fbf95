"""A Slurm cluster of one node on this machine: Debian's daemons, on loopback, with fake GPUs."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from waiting import wait_until

CONF = Path("/etc/slurm")  # the plugin takes SLURM_* out of the environment, SLURM_CONF with it
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel")
PORT = 16817  # of slurmctld; slurmd has the next one
MARK = "# the contact-map tests' own cluster"


def unusable() -> str | None:
    """Why no cluster can be started here, if none can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)"
    if os.getuid() != 0:
        return "slurmctld, munged and mknod need root"
    conf = CONF / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"this machine belongs to a cluster already: {conf} exists"
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", PORT)) == 0:
            return f"port {PORT} is taken: these tests run elsewhere on this machine"
    return None


class SlurmLab:
    """munged, slurmctld and slurmd, each ended by its pid file.

    Args:
        folder: for keys, state, logs and the fake devices; short, since it holds a socket.
        num_gpus: fake GPUs of the one node.
    """

    def __init__(self, folder: Path, num_gpus: int = 2):
        self.folder, self.num_gpus = folder, num_gpus
        self.host = socket.gethostname().split(".")[0]
        self.name = f"lab{os.getpid()}"

    def __enter__(self) -> "SlurmLab":
        self.folder.chmod(0o755)
        for number in range(self.num_gpus):
            subprocess.run(["mknod", self.folder / f"nvidia{number}", "c", "1", "3"], check=True)
        CONF.mkdir(exist_ok=True)
        (CONF / "slurm.conf").write_text(self._slurm_conf())
        devices = f"{self.folder}/nvidia[0-{self.num_gpus - 1}]"
        (CONF / "gres.conf").write_text(f"{MARK}\nNodeName={self.host} Name=gpu File={devices}\n")
        try:
            self.start_munge()
            self.start("slurmctld", "-c")
            self.start("slurmd")
            self.wait_for_state("idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for name in ("slurmd", "slurmctld", "munged"):
            self.stop(name)
        self._end_orphans()
        for name in ("slurm.conf", "gres.conf"):
            (CONF / name).unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """End what outlived its job: without cgroups, Slurm loses sight of some processes."""
        mark = f"SLURM_CLUSTER_NAME={self.name}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        subprocess.run(
            [
                "munged",
                "--force",
                f"--key-file={key}",
                f"--socket={folder}/munge.socket.2",
                f"--pid-file={self.folder}/munged.pid",
                f"--log-file={folder}/munged.log",
                f"--seed-file={folder}/munged.seed",
            ],
            check=True,
        )

    def start(self, daemon: str, *options: str) -> None:
        """Start slurmctld or slurmd."""
        subprocess.run([daemon, *options], check=True)

    def stop(self, daemon: str, number: int = signal.SIGTERM) -> None:
        """End one daemon and wait until it is gone."""
        pid_file = self.folder / f"{daemon}.pid"
        try:
            pid = int(pid_file.read_text())
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"{daemon} to end")
        pid_file.unlink(missing_ok=True)

    def wait_for_state(self, *states: str) -> None:
        """Until sinfo shows the node in one of these states."""
        wait_until(lambda: self.state() in states, f"the node to be {' or '.join(states)}")

    def state(self) -> str:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        return done.stdout.strip()

    def command(self, *arguments: str) -> str:
        """Output of scontrol, squeue, scancel."""
        return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout

    def jobs(self, state: str = "RUNNING") -> list[str]:
        """Ids of the jobs in a state."""
        return self.command("squeue", "-h", "-t", state, "-o", "%i").split()

    def comment(self, job: str) -> str:
        """What Snakemake says of a job: its rule and wildcards."""
        return self.command("squeue", "-h", "-j", job, "-o", "%k")

    def node_down(self) -> None:
        """Lose the node: Slurm requeues what ran on it."""
        change = ("update", f"nodename={self.host}", "state=down", "reason=test")
        self.command("scontrol", *change)
        wait_until(lambda: not self.jobs(), "the node's jobs to be gone")
        self.stop("slurmd")

    def node_up(self) -> None:
        """Have it back; with ReturnToService=2 it is idle once slurmd registers."""
        self.start("slurmd")
        self.wait_for_state("idle", "mixed", "allocated")

    def start_requeued_now(self) -> None:
        """Slurm lets a requeued job wait for two minutes; a test does not."""
        wait_until(lambda: not self.jobs("COMPLETING"), "jobs to end")
        for job in self.jobs("PENDING"):
            self.command("scontrol", "update", f"jobid={job}", "StartTime=now")

    def _slurm_conf(self) -> str:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        d, host = self.folder, self.host
        return f"""{MARK}
ClusterName={self.name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={PORT}
SlurmdPort={PORT + 1}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={d}/munge/munge.socket.2
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd.pid
SlurmctldLogFile={d}/slurmctld.log
SlurmdLogFile={d}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=300
DefMemPerCPU=500
SchedulerParameters=sched_interval=1
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
SwitchType=switch/none
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory} \
Gres=gpu:{self.num_gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
