"""Handing a script to sbatch or yhbatch: one job, an array, or a chain of jobs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.submission.resources import JOB_NAME, WORDS, options
from pipeline.submission.script import job_script

FOLDER = "submitted"
"""Where in the run's folder scripts and the jobs' own output lie."""


def submit_script(cluster: ClusterConfig, arguments: Sequence[str], out: Path) -> list[str]:
    """Write the script into the run's folder and submit it with `arguments` of `drenet screen`; the jobs' numbers in order."""
    folder = out.absolute() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{JOB_NAME}.sh"
    write_whole(script, job_script(cluster, str(script)).encode(), mode=0o755)
    jobs: list[str] = []
    name = f"{JOB_NAME}-{os.getpid()}" if cluster.legs > 1 else JOB_NAME
    for _ in range(cluster.legs):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        jobs.append(_submitted(cluster, folder, [f"--job-name={name}", *after], [str(script), *arguments]))
    return jobs


def _submitted(cluster: ClusterConfig, folder: Path, more: list[str], script: list[str]) -> str:
    """The number of one job."""
    words = WORDS[cluster.flavour]
    said = [] if words.reads_script else options(cluster)
    environment = dict(os.environ)
    if cluster.legs > 1:
        environment["DRENET_CHAIN"] = more[0].partition("=")[2]
    command = [words.submit, *said, *more, *script]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigurationError(f"cannot start {command[0]}: {error.strerror}; submit on the cluster's login node") from error
    number = re.search(r"[Ss]ubmitted batch job (\d+)", done.stdout)
    if done.returncode or number is None:
        raise ConfigurationError(f"{command[0]} refused the job: {done.stderr.strip() or done.stdout.strip()}")
    return number[1]
