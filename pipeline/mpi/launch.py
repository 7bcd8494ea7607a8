"""The way into MPI, and out of it.

MPI is entered before numpy, torch, OpenCV, HDF5 or pandas are loaded. MPICH over UCX tells the other ranks its address in a
buffer whose rest it never wrote, compressed: how long that is depends on what the heap held before. Slurm's PMI reads lines of
at most 1,024 bytes, cuts longer ones, and the ranks wait for one another for ever.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution

from pipeline.errors import ConfigurationError
from pipeline.mpi.launched import is_launched, launched_rank, launched_size
from pipeline.mpi.messages import survives_deaths
from pipeline.mpi.world import Alone, World

JOIN_S = 300.0
"""Ranks that have not all met within this time end, where nothing else is asked for (run.join_s)."""
_joined: list[World] = []
"""Whose last messages must be taken in before MPI ends at this process's exit."""


def connect(*, root_computes_up_to: int = 32, join_s: float = JOIN_S) -> Alone | World:
    """The world this process was started in; stops where N ranks turn out to be N singletons."""
    expected = launched_size()
    if not is_launched():
        return Alone()
    join(join_s)
    from mpi4py import MPI

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


def join(join_s: float = JOIN_S) -> None:
    """Enter MPI, where a launcher started this process; nothing heavy is to be loaded before. Raises ConfigurationError.

    A process that does not meet the others within `join_s` ends by SIGALRM: no code of Python's runs within MPI.
    """
    if not is_launched() or "mpi4py.MPI" in sys.modules:
        return
    _keep_lines_short()
    try:
        with _ends_if_it_takes(join_s):
            import mpi4py

            mpi4py.rc.finalize = not survives_deaths()  # finalising would wait for the dead
            from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"started as one of {launched_size()} ranks, but MPI cannot be loaded; "
            "install it with: pip install 'drenet-pipeline[mpi]', or load the site's MPI module and mpi4py"
        ) from error


def _keep_lines_short() -> None:
    """Under Slurm's PMI the wheel's MPICH goes through libfabric, whose addresses are short; a site's MPI is left alone."""
    if "PMI_FD" in os.environ and "SLURM_PROCID" in os.environ:
        with suppress(PackageNotFoundError):
            distribution("mpich")
            os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


@contextmanager
def _ends_if_it_takes(seconds: float) -> Iterator[None]:
    """The process ends by SIGALRM where its body takes longer: no handler of Python's runs within MPI. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_all_ranks(code: int) -> None:
    """End every rank at once, where MPI was loaded: one that merely died would leave the others waiting."""
    if "mpi4py.MPI" in sys.modules:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)


def end_rank(code: int) -> int:
    """The exit code of this rank where all ranks end early together: root's is the job's, and comes last.

    A launcher kills what still runs when the first rank ends with an error, and then reports the kill instead of the code.
    """
    if not is_launched():
        return code
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
