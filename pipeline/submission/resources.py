"""What a job asks the scheduler for, and how its ranks are started: the [cluster] section in the scheduler's words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigurationError

JOB_NAME = "drenet"


@dataclass(frozen=True, slots=True)
class Words:
    """A scheduler's names for what we ask of it, and what it cannot do that Slurm can.

    `warns_before_end`: it signals a job before its time is up, else the job has to look at the clock itself. `reads_script`: it
    reads the options that stand in a script, else they are said again.
    """

    submit: str
    run: str
    control: str
    cancel: str
    queue: str
    nodes: str
    accounts: str
    warns_before_end: bool = True
    reads_script: bool = True
    needs_partition: bool = False


WORDS = {
    "slurm": Words("sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo", "sacctmgr"),
    "tianhe": Words(
        "yhbatch",
        "yhrun",
        "yhcontrol",
        "yhcancel",
        "yhqueue",
        "yhinfo",
        "yhacctmgr",
        warns_before_end=False,  # Slurm 22.05 takes --signal=B: only by the name of sbatch
        reads_script=False,  # some yhbatch pass over #SBATCH lines
        needs_partition=True,
    ),
}


def check(cluster: ClusterConfig) -> None:
    """Raises ConfigurationError where the section contradicts itself."""
    if cluster.parts > 1 and cluster.legs > 1:
        raise ConfigurationError(
            "[cluster] parts and legs exclude each other: a part that is not finished is requeued by itself"
        )
    if cluster.gpus_per_node and cluster.ranks_per_node % cluster.gpus_per_node:
        raise ConfigurationError(
            f"[cluster] ranks_per_node = {cluster.ranks_per_node} but gpus_per_node = {cluster.gpus_per_node}: "
            "make them equal, or the ranks a multiple"
        )
    if cluster.drain_s >= 60 * cluster.walltime_min:
        raise ConfigurationError("[cluster] drain_s leaves nothing of walltime_min: shorten the one or lengthen the other")
    words = WORDS[cluster.flavour]
    if words.needs_partition and not cluster.partition:
        raise ConfigurationError(
            f"[cluster] partition is mandatory on {cluster.flavour.capitalize()}: {words.nodes} lists yours"
        )


def options(cluster: ClusterConfig) -> list[str]:
    """Options of sbatch, one a line of the script: what is asked for, then how the job is to be treated."""
    asked = [
        ("partition", cluster.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("nodes", cluster.nodes),
        ("ntasks-per-node", cluster.ranks_per_node),
        ("cpus-per-task", cluster.cpus_per_rank),
        ("gpus-per-node", cluster.gpus_per_node),
        ("mem", f"{cluster.memory_gb_per_node}G" if cluster.memory_gb_per_node else ""),
        ("time", cluster.walltime_min),
    ]
    many = [("array", f"1-{cluster.parts}")] if cluster.parts > 1 else []
    named = [f"--{name}={value}" for name, value in asked + many if value]
    log_name = "%x-%A-%a.log" if cluster.parts > 1 else "%x-%j.log"
    told = [f"--signal=B:USR1@{cluster.drain_s}"] if WORDS[cluster.flavour].warns_before_end else []
    treated = [*told, "--requeue", "--open-mode=append", f"--output={log_name}"]
    return [f"--job-name={JOB_NAME}", *named, *cluster.options, *treated]


def launch(cluster: ClusterConfig) -> list[str]:
    """The command that starts one rank a task."""
    if cluster.launcher != "srun":
        return [cluster.launcher, "-n", str(cluster.nodes * cluster.ranks_per_node), *cluster.launcher_options]
    return [WORDS[cluster.flavour].run, *step_options(cluster)]


def step_options(cluster: ClusterConfig) -> list[str]:
    """Options of srun: PMI, the end of all with one, and binding."""
    # several ranks a GPU see all of the node's and share them out by local rank
    binding = ["--gpus-per-task=1", "--gpu-bind=closest"] if cluster.gpus_per_node == cluster.ranks_per_node else []
    return [
        f"--mpi={cluster.pmi}",
        "--kill-on-bad-exit=1",
        f"--cpus-per-task={cluster.cpus_per_rank}",
        "--cpu-bind=cores",
        *binding,
        *cluster.launcher_options,
    ]
