"""A real Slurm with several nodes on one machine, for tests and the torture: munge, MariaDB, slurmdbd, slurmctld and slurmd.

Every node has two GPUs by its own account, which are /dev/null and /dev/zero. Every daemon is started here, as root, with files
below one folder, and ended by its own process number; a Slurm of the machine itself is left alone.
`python tests/slurm_bed.py FOLDER COMMAND...` runs a command with a bed up.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sbatch", "sacct")
CONF = """
ClusterName=bed
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={port}0
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
TmpFS={folder}/tmp-%n
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_delay=0
PriorityType=priority/basic
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=3
MinJobAge=600
InactiveLimit=0
SlurmdTimeout=15
MessageTimeout=30
TCPTimeout=5
PropagateResourceLimits=NONE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.sock
MaxArraySize=101
GresTypes=gpu
{nodes}
PartitionName=main Nodes=n[1-{n}] Default=YES MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=REQUEUE GraceTime=8 State=UP
PartitionName=urgent Nodes=n[1-{n}] MaxTime=60 DefaultTime=10 PriorityTier=100 PreemptMode=OFF State=UP
"""
NODE = (
    "NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 "
    "ThreadsPerCore=1 RealMemory=16000 Gres=gpu:2 State=UNKNOWN"
)
DBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
GRANT = (
    "create database if not exists slurm_acct; create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm'; "
    "grant all on slurm_acct.* to 'slurm'@'127.0.0.1';"
)


def missing():
    """Programs that are not installed, or what else keeps a bed from standing."""
    found = [name for name in PROGRAMS if shutil.which(name) is None]
    return found if os.geteuid() == 0 else [*found, "the rights of root"]


class Bed:
    """The daemons; a context manager. `environment` is what clients need."""

    def __init__(self, folder, n_nodes=4):
        self.folder, self.n_nodes = Path(folder).absolute(), n_nodes
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._mariadbd = None

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._configure()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def _configure(self):
        place = {"folder": self.folder, "host": socket.gethostname().partition(".")[0], "n": self.n_nodes}
        ports = _free_ports(3 + self.n_nodes)
        place |= {"port": ports[0], "dbd_port": ports[1], "sql_port": ports[2]}
        self._place = place
        nodes = [NODE.format(i=i, host=place["host"], port=ports[2 + i]) for i in range(1, self.n_nodes + 1)]
        conf = CONF.format(nodes="\n".join(nodes), **place).replace(f"SlurmdPort={ports[0]}0\n", "")
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{name}\n" for name in ("null", "zero")))
        dbd = self.folder / "slurmdbd.conf"
        dbd.write_text(DBD.format(**place))
        dbd.chmod(0o600)
        key = self.folder / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)

    def _start(self):
        f = self.folder
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        self._run(
            "munged", "--force", "--num-threads=2", *(f"--{k}={f / v}" for k, v in files.items()), f"--seed-file={f}/seed"
        )
        self._start_accounting()
        self._run("slurmctld", "-i")
        for i in range(1, self.n_nodes + 1):
            self.start_node(i)
        self.until(lambda: len(self._run("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split()) == self.n_nodes)

    def _start_accounting(self):
        f, sql = self.folder, self._place["sql_port"]
        if not (f / "db" / "mysql").exists():
            (f / "db").mkdir(exist_ok=True)
            options = (f"--datadir={f}/db", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db")
            self._run("mariadb-install-db", "--no-defaults", *options)
        options = [f"--datadir={f}/db", f"--socket={f}/sql.sock", f"--port={sql}", "--bind-address=127.0.0.1", "--user=root"]
        options += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=2"]
        with (f / "mariadb.log").open("ab") as log:
            self._mariadbd = subprocess.Popen(["mariadbd", "--no-defaults", *options], stdout=log, stderr=log)
        client = ("mariadb", "--no-defaults", "-S", f"{f}/sql.sock", "-u", "root", "-e")
        self.until(lambda: subprocess.run([*client, "select 1"], capture_output=True).returncode == 0)
        self._run(*client, GRANT)
        self._run("slurmdbd")
        ask = ["sacctmgr", "-n", "show", "cluster"]
        self.until(lambda: subprocess.run(ask, env=self.environment, capture_output=True).returncode == 0)
        subprocess.run(["sacctmgr", "-i", "add", "cluster", "bed"], env=self.environment, capture_output=True)

    def start_node(self, i):
        """Start the daemon of node `i`."""
        for kind in ("spool", "tmp"):
            (self.folder / f"{kind}-n{i}").mkdir(exist_ok=True)
        self._run("slurmd", "-N", f"n{i}")

    def kill_node(self, i):
        """kill -9 of a node's daemon."""
        _kill(_pid(self.folder / f"slurmd-n{i}.pid"), signal.SIGKILL)

    def stop(self):
        """End all jobs, then every daemon that was started here."""
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "-u", "root"], env=self.environment, capture_output=True, timeout=10)
        time.sleep(1)
        names = [f"slurmd-n{i}" for i in range(1, self.n_nodes + 1)] + ["slurmctld", "slurmdbd", "munged"]
        for name in names:
            _end(_pid(self.folder / f"{name}.pid"))
        if self._mariadbd is not None:
            self._mariadbd.terminate()
            self._mariadbd.wait(timeout=30)

    def run(self, *command, **options):
        """A client's output; raises where it fails."""
        return self._run(*map(str, command), **options)

    def submit(self, *arguments, **variables):
        """sbatch; the job's number."""
        return self._run("sbatch", "--parsable", *map(str, arguments), env=self.environment | variables).strip()

    def state(self, job):
        """(state, exit code) of a job that has left the queue, as its last run ended; sacct hears of it a little later."""
        ask = ("sacct", "-n", "-X", "-D", "-P", "-j", job, "-o", "State,ExitCode")
        self.until(lambda: not self._run(*ask).split("\n")[-2].startswith(("RUNNING", "PENDING", "REQUEUED")))
        state, _, code = self._run(*ask).split("\n")[-2].partition("|")
        return state.split()[0], int(code.partition(":")[0])

    def wait(self, *jobs, timeout_s=300):
        """Until none of the jobs is in the queue."""
        wanted = ",".join(jobs)
        self.until(lambda: not self._run("squeue", "-h", "-j", wanted, check=False).strip(), timeout_s)

    def _run(self, *command, check=True, env=None):
        done = subprocess.run(command, env=env or self.environment, capture_output=True, text=True, cwd=self.folder)
        if check and done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def until(self, true, timeout_s=60.0):
        ends = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > ends:
                logs = "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in self.folder.glob("*.log"))
                raise TimeoutError(f"the cluster did not come to it in {timeout_s:.0f} s\n{logs}")
            time.sleep(0.2)


def _free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _pid(path):
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _kill(pid, number):
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(pid):
    """TERM, then KILL after six seconds."""
    _kill(pid, signal.SIGTERM)
    for _ in range(60):
        if pid is None or not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    _kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    with Bed(sys.argv[1]) as bed:
        sys.exit(subprocess.run(sys.argv[2:], env=bed.environment).returncode)
