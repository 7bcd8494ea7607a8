"""A job's script: what a site edits at its head, written from [cluster]; below it the leg that is the same for all."""

from __future__ import annotations

import shlex
from importlib.resources import files

from pipeline.config import ClusterConfig
from pipeline.records import RESEARCH
from pipeline.submission.resources import WORDS, check, launch, options

USAGE = "ARCHIVE --weights WEIGHTS --out RUN [more options of `drenet screen`]"


def job_script(cluster: ClusterConfig, name: str = "SCRIPT") -> str:
    """The whole script; its arguments are those of `drenet screen`. Raises ConfigurationError where [cluster] is wrong."""
    check(cluster)
    return "\n".join([*_head(cluster, name), *_site(cluster), "", files("pipeline.submission").joinpath("leg.sh").read_text()])


def _head(cluster: ClusterConfig, name: str) -> list[str]:
    words = WORDS[cluster.flavour]
    return [
        "#!/usr/bin/env bash",
        f"# Screens a chest-CT archive with drenet; submitted again on the same RUN it resumes. {RESEARCH}",
        f"#   {words.submit} {name} {USAGE}",
        "# Made by `drenet submit --dry-run` from a [cluster] section: edit that, or edit here down to the line of dashes.",
        *(f"#SBATCH {option}" for option in options(cluster)),
    ]


def _site(cluster: ClusterConfig) -> list[str]:
    """Shell lines that differ from site to site."""
    words = WORDS[cluster.flavour]
    return [
        *(f"module load {shlex.quote(module)}" for module in cluster.modules),
        *cluster.setup,
        f"launch=({shlex.join(launch(cluster))})",
        f"drenet=({shlex.join(cluster.command)})",
        f"control={words.control} queue={words.queue} cancel={words.cancel}",
        f"relaunches={cluster.relaunches} # within this allocation, after a rank or the launcher died",
        f"requeues={cluster.requeues} # of this job, after it was stopped before its end",
        f"part=({_part(cluster)})",
        f"drain_s={_own_clock(cluster)} # so long before its end this script stops the ranks; nothing: the queue tells it when",
        f"scratch={shlex.quote(cluster.scratch)} # node-local folder for temporary files, or nothing",
        f"export OMP_NUM_THREADS={cluster.cpus_per_rank}",
        "# " + "-" * 100,
    ]


def _own_clock(cluster: ClusterConfig) -> str:
    """How many seconds before its end a job looks for that by itself; none where the scheduler tells it."""
    return "''" if WORDS[cluster.flavour].warns_before_end else str(cluster.drain_s)


def _part(cluster: ClusterConfig) -> str:
    """Which part of how many a task does: the array says, which may be another than the section's (`sbatch --array=1-2`)."""
    if cluster.parts <= 1:
        return ""
    place = "(${SLURM_ARRAY_TASK_ID:-1} - ${SLURM_ARRAY_TASK_MIN:-1}) / ${SLURM_ARRAY_TASK_STEP:-1} + 1"
    return f'--part "$(({place}))/${{SLURM_ARRAY_TASK_COUNT:-{cluster.parts}}}"'
