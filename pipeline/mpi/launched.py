"""What the launcher says of this process in its environment. Light: it is asked before anything else is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence

SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_SIZE", "SLURM_STEP_NUM_TASKS")
RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def is_launched() -> bool:
    """Whether a launcher of MPI's started this process, be it as the only rank."""
    return launched_size() > 1 or "MPI_LOCALNRANKS" in os.environ


def launched_size() -> int:
    """How many ranks the launcher says it started; 1 where there is no launcher."""
    return _number_of(SIZE, 1)


def launched_rank() -> int:
    """This process's rank according to the launcher, known before MPI is loaded; 0 where there is no launcher."""
    return _number_of(RANK, 0)


def local_rank() -> int:
    """This rank's number on its node, from 0."""
    return _number_of(LOCAL_RANK, 0)


def end_time() -> float | None:
    """The Unix time at which this allocation ends, where the job's script or Slurm says so."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() and int(said) else None


def _number_of(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
