"""A real SLURM on this host: three nodes with two GPUs each that are none, accounts, preemption; started, broken, stopped.

Everything lives in one folder and listens on its own ports; all that the host is asked for is root, Debian's packages
(PACKAGES) and the nodes' names in /etc/hosts while it runs. Every daemon is a child of this process, ended by its number.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd")
PACKAGES = "slurmctld slurmd slurm-client slurmdbd mariadb-server munge"
NODES = ("n1", "n2", "n3")
MARK = "REPLAYLAB_TEST_NODE"  # in the environment of a node's daemons, to find them by
HOSTS = Path("/etc/hosts")
NAMES = f"127.0.0.1 {' '.join(NODES)}  # the tests' SLURM\n"


def missing() -> str:
    """What this host lacks; "" if nothing."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"{', '.join(absent)} (apt-get install {PACKAGES})"
    return "" if os.geteuid() == 0 else "root, which SLURM's daemons need"


def wait_for(what: str, there: Callable[[], object], seconds: float = 1200.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.25)


def lines_until(word: str, lines: IO[str]) -> str:
    """What is read up to the line with this word."""
    read = []
    for line in lines:
        read.append(line)
        if word in line:
            break
    return "".join(read)


class Cluster:
    """Started by `start`, and after `stop` nothing of it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.configuration = folder / "slurm.conf"

    # ------------------------------------------------------------------------------------------------- up and down
    def start(self) -> None:
        os.environ["SLURM_CONF"] = str(self.configuration)
        HOSTS.write_text(HOSTS.read_text() + NAMES)
        self._write_configuration()
        for name in ("state", "database", "logs", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
                     f"--pid-file={self.folder}/munge.pid", f"--seed-file={self.folder}/munge.seed")  # fmt: skip
        self._start_database()
        self._daemon("slurmdbd", "-D")
        wait_for("slurmdbd", lambda: self._does("sacctmgr", "-n", "show", "cluster"))
        for thing in (["cluster", "tests"], ["account", "lab"], ["qos", "replay"],
                      ["user", "root", "account=lab", "qos=normal,replay"]):  # fmt: skip
            self.run("sacctmgr", "-i", "add", *thing)
        self._daemon("slurmctld", "-D", "-f", str(self.configuration))
        wait_for("slurmctld", lambda: self._does("scontrol", "ping") and "UP" in self.run("scontrol", "ping"))
        for node in NODES:
            self.start_node(node)
        wait_for("idle nodes", lambda: all(self.state_of(node) == "idle" for node in NODES))

    def _start_database(self) -> None:
        data = self.folder / "database"
        common = ["--no-defaults", f"--datadir={data}", "--user=root"]
        subprocess.run(["mariadb-install-db", *common, "--auth-root-authentication-method=normal"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        first = self.folder / "first.sql"
        first.write_text(  # a statement a line
            "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'tests';\nGRANT ALL ON *.* TO slurm@'127.0.0.1';\n"
        )
        self._daemon("mariadbd", *common, f"--socket={self.folder}/database.socket", f"--port={self.ports['database']}",
                     "--bind-address=127.0.0.1", "--skip-name-resolve", f"--init-file={first}",
                     f"--pid-file={self.folder}/database.pid", "--innodb-flush-log-at-trx-commit=0")  # fmt: skip
        wait_for("the database", lambda: _answers(self.ports["database"]))

    def _write_configuration(self) -> None:
        host, folder = socket.gethostname(), self.folder
        names = ("database", "slurmdbd", "slurmctld", *NODES)
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        for number in range(2):  # /dev/null's kind: where they are no devices, CUDA_VISIBLE_DEVICES is never set
            os.mknod(folder / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        ports = ",".join(str(self.ports[node]) for node in NODES)
        # cred_expire: a requeued job waits so long, and one whose node does not launch it within that time fails
        self.configuration.write_text(f"""
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={self.ports["slurmctld"]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
KillWait=5
MinJobAge=7200
MpiDefault=none
GresTypes=gpu
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,sched_min_interval=0,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self.ports["slurmdbd"]}
AccountingStoragePass={folder}/munge.socket
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=n[1-3] Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE
PartitionName=high Nodes=n[1-3] PriorityTier=10 MaxTime=INFINITE
""")
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n[1-3] Name=gpu File={folder}/gpu[0-1]\n")
        accounts = folder / "slurmdbd.conf"
        accounts.write_text(f"""
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self.ports["slurmdbd"]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={self.ports["database"]}
StorageUser=slurm
StoragePass=tests
StorageLoc=slurm
""")
        accounts.chmod(0o600)

    def stop(self) -> None:
        try:
            if "slurmctld" in self.daemons:
                subprocess.run(["scancel", "--user=root", "--state=PENDING"], capture_output=True, timeout=60)
                subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=60)
                time.sleep(1)
            for node in NODES:
                self.kill_node(node)
            for name in reversed(list(self.daemons)):
                self._end(name)
        finally:
            HOSTS.write_text(HOSTS.read_text().replace(NAMES, ""))
            os.environ.pop("SLURM_CONF", None)

    def _daemon(self, name: str, *arguments: str, node: str = "") -> None:
        known = name + (f"-{node}" if node else "")
        log = (self.folder / "logs" / f"{known}.log").open("ab")
        environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        environment |= {MARK: f"{self.folder}:{node}"} if node else {}
        self.daemons[known] = subprocess.Popen(
            [name, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            start_new_session=True,  # a Ctrl-C is for the tests
        )  # fmt: skip

    def _end(self, name: str) -> None:
        process = self.daemons.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # --------------------------------------------------------------------------------------------------------- nodes
    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.configuration), node=node)

    def kill_node(self, node: str) -> None:
        """As if somebody had pulled its plug: its daemon, the steps' daemons and what they run."""
        mark = f"{MARK}={self.folder}:{node}".encode()
        doomed = {
            int(process.name)
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and mark in _read(process / "environ").split(b"\0")
        }
        parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdigit()}
        while more := {child for child, parent in parents.items() if parent in doomed} - doomed:
            doomed |= more
        # All stand still before the first ends: or a step's daemon still reports that its job has failed by a signal,
        # which SLURM does not requeue.
        for each in (signal.SIGSTOP, signal.SIGKILL):
            for number in doomed:
                with suppress(ProcessLookupError):
                    os.kill(number, each)
        daemon = self.daemons.pop(f"slurmd-{node}", None)
        if daemon is not None:
            daemon.wait()

    def state_of(self, node: str) -> str:
        return self.run("sinfo", "--noheader", "--Node", f"--nodes={node}", "--partition=main", "--format=%T").strip()

    # ---------------------------------------------------------------------------------------------------------- words
    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _does(self, *command: str) -> bool:
        return subprocess.run(command, capture_output=True, timeout=120).returncode == 0

    def job_state(self, job: str) -> str:
        """As `squeue` says it; "" for a job that it no longer lists."""
        lines = subprocess.run(["squeue", "--noheader", "--array", "--format=%i|%T", "--states=all"], capture_output=True,
                               text=True, timeout=120).stdout.splitlines()  # fmt: skip
        return dict(line.split("|") for line in lines).get(job, "")

    def restarts(self, job: str) -> int:
        shown = self.run("scontrol", "show", "job", job)
        return int(shown.split("Restarts=")[1].split()[0])

    def history(self, job: str) -> list[str]:
        """Every state in which an attempt at a job ended, in turn, by the accounts."""
        shown = self.run("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "-j", job, "-o", "State")
        return shown.split("\n")[:-1]

    def wait_for_history(self, job: str, ended: list[str], seconds: float = 300.0) -> None:
        """The accounts are some seconds late. Raises AssertionError, with what they say, where they do not become these."""
        with suppress(TimeoutError):
            wait_for("the accounts", lambda: self.history(job) == ended, seconds)
        assert self.history(job) == ended


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


def _parent(process: Path) -> int:
    stat = _read(process / "stat")
    return int(stat.rsplit(b")", 1)[1].split()[1]) if stat else 0
