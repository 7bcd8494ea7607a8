"""How this process was started: what the launcher says of ranks, the way into MPI, and starting ranks on this machine."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.mail import survives_deaths
from pipeline.ranks import Alone, World

SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_SIZE", "SLURM_STEP_NUM_TASKS")
RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
_joined: list[World] = []
"""What MPI's end at this process's exit must know of."""
JOINING_S = 300
"""A rank that dies before all have joined leaves the others waiting where the MPI does not end them: not longer than this."""
LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def connect(*, root_computes_up_to: int = 32) -> Alone | World:
    """The world this process was started in; stops where N ranks turn out to be N singletons."""
    expected = launched_size()
    if expected <= 1 and "MPI_LOCALNRANKS" not in os.environ:
        return Alone()
    try:
        with _ends_if_it_takes(JOINING_S if survives_deaths() else 0):
            import mpi4py

            mpi4py.rc.finalize = not survives_deaths()  # finalising would wait for the dead
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"started as one of {expected} ranks, but MPI cannot be loaded; "
            "install it with: pip install 'drenet-pipeline[mpi]', or load the site's MPI module and mpi4py"
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != expected:
        raise ConfigurationError(
            f"{expected} ranks were launched but MPI sees {size}: the launcher and the MPI library do not speak the same "
            "PMI. Start with the MPI's own mpiexec, or: srun --mpi=pmi2 (MPICH), srun --mpi=pmix (Open MPI)"
        )
    if size == 1:
        return Alone()
    world = World(MPI.COMM_WORLD, root_computes_up_to=root_computes_up_to, survives=survives_deaths())
    if not _joined:
        atexit.register(_flush)
    _joined.append(world)
    return world


def _flush() -> None:
    """What this rank has sent is taken in before MPI is finalised."""
    for world in _joined:
        world.flush()


@contextmanager
def _ends_if_it_takes(seconds: int) -> Iterator[None]:
    """The process ends by SIGALRM where its body takes longer: no handler of Python's runs within MPI. 0: it may."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL) if seconds else None
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        if seconds:
            signal.signal(signal.SIGALRM, before)


def launched_size() -> int:
    """How many ranks the launcher says it started; 1 where there is no launcher."""
    return _said(SIZE, 1)


def launched_rank() -> int:
    """This process's rank according to the launcher, known before MPI is loaded; 0 where there is no launcher."""
    return _said(RANK, 0)


def local_rank() -> int:
    """This rank's number on its node, from 0."""
    return _said(LOCAL_RANK, 0)


def end_time() -> float | None:
    """The Unix time at which this allocation ends, where the job's script or Slurm says so."""
    said = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdigit() and int(said) else None


def _said(names: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)


def end_all_ranks(code: int) -> None:
    """End every rank at once, where MPI was loaded: one that merely died would leave the others waiting."""
    if "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)


def part_ways(code: int) -> int:
    """The exit code of this rank where all ranks end early together: root's is the job's, and comes last.

    A launcher kills what still runs when the first rank ends with an error, and then reports the kill instead of the code.
    """
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if "mpi4py.MPI" not in sys.modules:
        return code
    _flush()
    if not survives_deaths():  # finalising would wait for the dead
        sys.modules["mpi4py.MPI"].Finalize()
    if launched_rank():
        return 0
    time.sleep(0.5)
    return code


def start_ranks(n_ranks: int, arguments: Sequence[str]) -> int:
    """Run `drenet` with `arguments` on `n_ranks` ranks of this machine; the exit code.

    The launcher is this environment's own. A request to stop (USR1, TERM) is passed on, and what the ranks answer waited for.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise ConfigurationError("several ranks need MPI: pip install 'drenet-pipeline[mpi]', or load the site's module")
    child = subprocess.Popen([launcher, "-n", str(n_ranks), sys.executable, "-m", "pipeline", *arguments])
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    return child.wait()
