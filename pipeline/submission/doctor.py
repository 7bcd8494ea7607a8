"""What would go wrong here: looked for on a login node, or by every rank inside an allocation, before a run is started.

Each finding has a name, what was seen, and the cure. Nothing is changed; the files that are tried are removed again.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from pipeline import __version__
from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.mpi.launch import connect
from pipeline.mpi.launched import SIZE, launched_rank, launched_size, local_rank
from pipeline.mpi.leftovers import left_behind
from pipeline.mpi.world import Alone, World
from pipeline.submission.looks import BLOCKING, SLOWING, PlannedRun
from pipeline.submission.site import Finding, site_findings

LIBRARIES = ("numpy", "torch", "openvino", "opencv-python-headless", "mpi4py", "msgspec", "h5py")
SHM = Path("/dev/shm")  # noqa: S108  where the decode child and MPI share memory
SHM_BYTES = 256 << 20
SKEW_S = 2.0
PING = 21


class Seat(msgspec.Struct, frozen=True):
    """What one rank says of where it sits."""

    rank: int
    host: str
    n_cpus: int
    gpu: str
    versions: dict[str, str]
    shm_free: int
    n_left: int = 0


def examine(planned: PlannedRun) -> list[Finding] | None:
    """All findings, on root; None on the other ranks."""
    world, found = _world()
    seats = [msgspec.json.decode(data, type=Seat) for data in world.gather(msgspec.json.encode(_seat(world.rank)))]
    offsets = clock_offsets(world)
    if world.rank or launched_rank():
        return None
    found += [*crowded(seats, planned.config), *shared_gpus(seats), *mixed_versions(seats), *full_memory(seats)]
    found += left_in_memory(seats)
    found += skewed_clocks(offsets)
    for look in (*BLOCKING, *SLOWING):
        found += look(planned)
    return [*found, *site_findings(planned.config.cluster)]


def _world() -> tuple[Alone | World, list[Finding]]:
    """The world, or a lonely rank with what keeps it from the others."""
    try:
        return connect(), []
    except ConfigurationError:
        return Alone(), [_unconnected(launched_size())]


def _unconnected(n: int) -> Finding:
    """Why `n` ranks that were launched do not find one another."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and not any(name in os.environ for name in SIZE[:3]):
        cure = "srun --mpi=pmi2 (MPICH and its kin) or --mpi=pmix (Open MPI); `srun --mpi=list` says what is there"
        return Finding("wrong-pmi", f"srun started {n} tasks without a PMI that this MPI speaks", cure)
    cure = "start with the mpiexec of the MPI that mpi4py is built for: `python -m mpi4py --mpi-library` names it"
    return Finding("singletons", f"{n} ranks were launched, each of which sees itself alone", cure)


def _seat(rank: int) -> Seat:
    free = shutil.disk_usage(SHM).free if SHM.exists() else SHM_BYTES
    n_left = len(left_behind()) if local_rank() == 0 else 0
    return Seat(rank, platform.node(), len(os.sched_getaffinity(0)), _gpu(), _versions(), free, n_left)


def _gpu() -> str:
    """The GPU that this rank will take, if there is any: by its place among those that it may see."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    all_there = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    seen = all_there if said is None else [name for name in said.split(",") if name]
    return seen[local_rank() % len(seen)] if seen else ""


def _versions() -> dict[str, str]:
    found = {"drenet-pipeline": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def clock_offsets(world: Alone | World) -> list[float]:
    """Seconds by which each rank's clock is before root's, from one question and answer each; on root."""
    if isinstance(world, Alone):
        return [0.0]
    if world.rank:
        world.receive(0, PING)
        world.send(repr(time.time()).encode(), 0, PING + 1)
        return []
    offsets = [0.0]
    for rank in range(1, world.size):
        begun = time.time()
        world.send(b"", rank, PING)
        told = float(world.receive(rank, PING + 1))
        offsets.append(told - (begun + time.time()) / 2)
    return offsets


def crowded(seats: Sequence[Seat], config: Config) -> Iterator[Finding]:
    """More threads than cores on a node."""
    for host, ranks in Counter(seat.host for seat in seats).items():
        n_cpus = max(seat.n_cpus for seat in seats if seat.host == host)
        n_threads = ranks * config.engine.threads
        if n_threads > (os.cpu_count() or n_cpus) or config.engine.threads > n_cpus:
            seen = f"{host}: {ranks} ranks of {config.engine.threads} threads; a rank may use {n_cpus} cores"
            yield Finding("oversubscribed", seen, "engine.threads = 1, fewer ranks a node, or more --cpus-per-task")


def shared_gpus(seats: Sequence[Seat]) -> Iterator[Finding]:
    """Several ranks on one GPU."""
    for (host, gpu), n in Counter((seat.host, seat.gpu) for seat in seats if seat.gpu).items():
        if n > 1:
            cure = "nothing, if meant so; else ranks_per_node = gpus_per_node and srun --gpus-per-task=1 --gpu-bind=closest"
            yield Finding("shared-gpu", f"{host}: {n} ranks on GPU {gpu}", cure)


def mixed_versions(seats: Sequence[Seat]) -> Iterator[Finding]:
    """Ranks that run different versions."""
    for name in seats[0].versions:
        found = sorted({seat.versions.get(name, "absent") for seat in seats})
        if len(found) > 1:
            cure = "one environment for all nodes: a shared folder or a container, the same modules on each"
            yield Finding("version-mismatch", f"{name}: {' and '.join(found)}", cure)


def full_memory(seats: Sequence[Seat]) -> Iterator[Finding]:
    """No room in the shared memory of a node."""
    for host in sorted({seat.host for seat in seats if seat.shm_free < SHM_BYTES}):
        cure = "remove what killed jobs left in /dev/shm (ls -l /dev/shm), or ask for another node"
        yield Finding("shm-full", f"{host}: less than {SHM_BYTES >> 20} MiB free in /dev/shm", cure)


def left_in_memory(seats: Sequence[Seat]) -> Iterator[Finding]:
    """Shared memory that dead ranks have left on a node: it is the node's, and every job's there."""
    for seat in seats:
        if seat.n_left:
            cure = "nothing: the next start on that node removes them"
            yield Finding("shm-left", f"{seat.host}: {seat.n_left} segments of dead ranks of yours in /dev/shm", cure)


def skewed_clocks(offsets: Sequence[float]) -> Iterator[Finding]:
    """Clocks that do not agree."""
    wrong = {rank: offset for rank, offset in enumerate(offsets) if abs(offset) > SKEW_S}
    if wrong:
        seen = ", ".join(f"rank {rank} by {offset:+.0f} s" for rank, offset in wrong.items())
        yield Finding("clock-skew", f"clocks differ from rank 0's: {seen}", "have the site mend its NTP; leave those nodes out")
