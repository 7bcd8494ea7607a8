"""The submitit door: a run as a job of Python's, whose result is the run's summary.

One MPI world inside the job: each task is a rank. Stopped in time (preemption, time limit) the job asks to be queued again and
goes on from its journals, so nothing needs to be saved by a checkpoint. On a workstation the same call starts local ranks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, read_config
from pipeline.errors import ConfigurationError, Drained, PipelineError
from pipeline.run.weights import Weights, weights_of
from pipeline.submission.queue import FOLDER
from pipeline.submission.resources import JOB_NAME, WORDS, check, options, step_options

if TYPE_CHECKING:
    from pipeline.run.gather import Summary

END_TIME = 'export SLURM_JOB_END_TIME="${SLURM_JOB_END_TIME:-$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s)}"'


@dataclass(frozen=True, slots=True)
class Leg:
    """One stretch of a run inside a submitit job; called by every task."""

    archive: str
    weights: tuple[str, ...]
    out: str
    config: str | None
    key_file: str | None
    ranks: int
    requeues: int

    def __call__(self) -> Summary | None:
        """The run's summary, on the first task."""
        asked: list[int] = []
        for number in (signal.SIGUSR1, signal.SIGTERM):  # until the run listens itself
            signal.signal(number, lambda number, _: asked.append(number))
        if "SLURM_JOB_ID" not in os.environ:
            return self._local()
        from pipeline.mpi.launch import join

        join()  # before anything heavy is loaded
        from pipeline.screening import screen

        if asked:
            self._requeue()
        try:
            return screen(self.archive, self.weights, self.out, config=self.config, key_file=self.key_file)
        except PipelineError as error:
            if error.exit_code == Drained.exit_code:
                self._requeue()
            raise

    def checkpoint(self, *_: Any) -> Any:
        """What submitit queues again, should it catch a signal before the run does: the same leg."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _requeue(self) -> None:
        """Ask for another turn and wait for the end of this one; a result written now would be taken for the run's."""
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= self.requeues:
            return
        if os.environ.get("SLURM_PROCID", "0") == "0":
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        time.sleep(600)

    def _local(self) -> Summary:
        """Ranks of this machine."""
        from pipeline.mpi.front import start_ranks
        from pipeline.screening import gather_run

        named = [part for path in self.weights for part in ("--weights", path)]
        chosen = [("--config", self.config), ("--key-file", self.key_file)]
        named += [part for name, value in chosen if value for part in (name, value)]
        code = start_ranks(self.ranks, ["screen", self.archive, *named, "--out", self.out])
        if code:
            raise PipelineError(f"the ranks ended with code {code}; their words are in this job's log")
        return gather_run(Path(self.out))


def submit(
    archive: str | Path, weights: str | Path | Weights | Sequence[str | Path | Weights], out: str | Path, *,
    config: str | Path | None = None, key_file: str | Path | None = None, local: bool = False,
) -> Any:  # fmt: skip
    """Submit a run as its [cluster] section says; a submitit job whose `result()` is the run's summary.

    `local` starts it on this machine instead. Raises ConfigurationError.
    """
    asked = tuple(map(weights_of, [weights] if isinstance(weights, str | Path | Weights) else weights))
    settings = read_config(Path(config) if config else None)
    cluster = settings.cluster
    leg = Leg(
        str(Path(archive).absolute()),
        tuple(str(one.absolute()) for one in asked),
        str(Path(out).absolute()),
        str(Path(config).absolute()) if config else None,
        str(Path(key_file).absolute()) if key_file else None,
        cluster.nodes * cluster.ranks_per_node,
        cluster.requeues,
    )
    from pipeline.submission.looks import PlannedRun, refuse_what_cannot_run

    planned = PlannedRun(settings, Path(out), asked, Path(key_file) if key_file else None, Path(archive))
    executor = _executor(settings, Path(out).absolute() / FOLDER, local=local)
    refuse_what_cannot_run(planned, on_cluster=not local)
    return executor.submit(leg)


def _executor(settings: Config, folder: Path, *, local: bool) -> Any:
    import submitit

    cluster = settings.cluster
    check(cluster)
    if cluster.parts > 1 or cluster.legs > 1:
        raise ConfigurationError("submitit runs one job: arrays and chains are submitted by `drenet submit`")
    if cluster.flavour != "slurm" and not local:
        raise ConfigurationError(f"submitit speaks to Slurm only: `drenet submit` writes for {WORDS[cluster.flavour].submit}")
    executor = submitit.AutoExecutor(folder=folder, cluster="local" if local else "slurm")
    executor.update_parameters(name=JOB_NAME, timeout_min=cluster.walltime_min)
    if not local:
        executor.update_parameters(
            nodes=cluster.nodes,
            tasks_per_node=cluster.ranks_per_node,
            cpus_per_task=cluster.cpus_per_rank,
            slurm_srun_args=step_options(cluster),
            slurm_setup=[
                *(f"module load {module}" for module in cluster.modules),
                *cluster.setup,
                f"export OMP_NUM_THREADS={cluster.cpus_per_rank}",
                END_TIME,
            ],
            slurm_additional_parameters=_additional(settings),
        )
    return executor


def _additional(settings: Config) -> dict[str, str | bool]:
    """The options of our own scripts that submitit has no word for. The ranks are told to stop, not the shell."""
    own = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "time", "output", "open-mode"}
    pairs = [option.removeprefix("--").partition("=") for option in options(settings.cluster)]
    named: dict[str, str | bool] = {name: value if equals else True for name, equals, value in pairs if name not in own}
    return named | {"signal": f"USR1@{settings.cluster.drain_s}"}
