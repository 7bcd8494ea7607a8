"""What a cluster offers, asked of its own commands on the login node, against what a [cluster] section asks for.

A command that is not there, or says nothing, finds nothing: a site may hide what it likes.
"""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import ClusterConfig
from pipeline.submission.resources import WORDS

FORMAT = "%P|%a|%l|%c|%m|%G|%D"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would go wrong."""

    name: str
    seen: str
    cure: str


@dataclass(frozen=True, slots=True)
class Nodes:
    """`count` nodes alike, of one partition; `limit_s` is its longest job, 0: as long as wished."""

    partition: str
    is_default: bool
    is_up: bool
    limit_s: int
    n_cpus: int
    memory_mb: int
    n_gpus: int
    count: int


def site_findings(cluster: ClusterConfig) -> Iterator[Finding]:
    """What of `cluster` this site cannot give."""
    yield from _account(cluster)
    yield from _array(cluster)
    nodes = read_nodes(_output_of(WORDS[cluster.flavour].nodes, "-h", "-e", "-o", FORMAT))
    if not nodes:
        return
    ours = [one for one in nodes if (one.partition == cluster.partition if cluster.partition else one.is_default)]
    if not ours:
        there = ", ".join(sorted({one.partition for one in nodes}))
        seen = f"there is no partition {cluster.partition}" if cluster.partition else "no partition is the default here"
        yield Finding("partition", seen, f"[cluster] partition = one of {there}")
        return
    if not any(one.is_up for one in ours):
        yield Finding("partition", f"partition {ours[0].partition} is not up", "another partition, or wait until it is")
    yield from _time_limit(cluster, ours)
    yield from _nodes(cluster, ours)


def read_nodes(text: str) -> list[Nodes]:
    """The lines of sinfo in `FORMAT`; one that makes no sense is passed over."""
    return [nodes for line in text.splitlines() if (nodes := _nodes_of(line.split("|"))) is not None]


def _nodes_of(fields: list[str]) -> Nodes | None:
    if len(fields) != FORMAT.count("|") + 1:
        return None
    name, state, limit, cpus, memory, gres, count = (field.strip() for field in fields)
    numbers = [re.match(r"\d+", number) for number in (cpus, memory, count)]
    if not all(numbers):
        return None
    n_cpus, memory_mb, n = (int(number[0]) for number in numbers if number)
    n_gpus = sum(int(found) for found in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))
    return Nodes(name.rstrip("*"), name.endswith("*"), state == "up", _seconds(limit), n_cpus, memory_mb, n_gpus, n)


def _seconds(limit: str) -> int:
    """[days-]hours:minutes:seconds, or minutes:seconds; 0 for `infinite` and the like."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) not in (2, 3) or (days and not days.isdigit()):
        return 0
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return 86400 * int(days or 0) + total


def _time_limit(cluster: ClusterConfig, ours: Sequence[Nodes]) -> Iterator[Finding]:
    limit_s = min(one.limit_s for one in ours)
    if limit_s and 60 * cluster.walltime_min > limit_s:
        seen = f"walltime_min = {cluster.walltime_min}, but partition {ours[0].partition} ends a job after {limit_s // 60} min"
        yield Finding("time-limit", seen, f"walltime_min = {limit_s // 60} at most: a job that is requeued goes on by itself")


def _nodes(cluster: ClusterConfig, ours: Sequence[Nodes]) -> Iterator[Finding]:
    """Too few nodes that have all that is asked of one; what the best one lacks is named."""
    where = f"partition {ours[0].partition}"
    wanted = {
        "cpus": (cluster.ranks_per_node * cluster.cpus_per_rank, "CPUs", "fewer ranks_per_node, or cpus_per_rank"),
        "memory": (1024 * cluster.memory_gb_per_node, "MB of memory", "less memory_gb_per_node"),
        "gpus": (cluster.gpus_per_node, "GPUs", "fewer gpus_per_node"),
    }
    has = {
        "cpus": [one.n_cpus for one in ours],
        "memory": [one.memory_mb for one in ours],
        "gpus": [one.n_gpus for one in ours],
    }
    short = [name for name, (most, _, _) in wanted.items() if most > max(has[name])]
    for name in short:
        most, unit, cure = wanted[name]
        yield Finding(name, f"{most:,} {unit} a node are asked for; a node of {where} has {max(has[name]):,}", cure)
    fitting = sum(
        one.count for number, one in enumerate(ours) if all(has[name][number] >= most for name, (most, _, _) in wanted.items())
    )
    if not short and fitting < cluster.nodes:
        seen = f"nodes = {cluster.nodes}; {where} has {fitting} with all that is asked of a node"
        yield Finding("nodes", seen, "fewer nodes, or ask less of each; a run goes on with any number of ranks")


def _account(cluster: ClusterConfig) -> Iterator[Finding]:
    """An account or QOS that this user may not charge."""
    if not (cluster.account or cluster.qos):
        return
    asked = ("-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account,qos")
    rows = [line.split("|") for line in _output_of(WORDS[cluster.flavour].accounts, *asked).splitlines() if "|" in line]
    mine = [row for row in rows if not cluster.account or row[0] == cluster.account]
    if rows and not mine:
        there = ", ".join(sorted({row[0] for row in rows}))
        yield Finding("account", f"account {cluster.account} is none of yours", f"[cluster] account = one of {there}")
    allowed = {name for row in mine for name in row[1].split(",") if name}
    if cluster.qos and allowed and cluster.qos not in allowed:
        yield Finding("qos", f"QOS {cluster.qos} is not allowed here", f"[cluster] qos = one of {', '.join(sorted(allowed))}")


def _array(cluster: ClusterConfig) -> Iterator[Finding]:
    """More tasks in an array than the site allows."""
    if cluster.parts <= 1:
        return
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", _output_of(WORDS[cluster.flavour].control, "show", "config"))
    if limit and cluster.parts >= int(limit[1]):
        cure = f"parts = {int(limit[1]) - 1} at most; more ranks in each part do the same"
        seen = f"[cluster] parts = {cluster.parts}, the site's MaxArraySize is {limit[1]}"
        yield Finding("array-too-long", seen, cure)


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
