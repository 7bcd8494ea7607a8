"""What would go wrong here: looked for on a login node, or by every rank inside an allocation, before a run is started.

Each finding has a name, what was seen, and the cure. Nothing is changed; the files that are tried are removed again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from pipeline import __version__
from pipeline.config import Config
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.estimate import estimate
from pipeline.launch import SIZE, connect, launched_rank, launched_size, local_rank
from pipeline.leftovers import left_behind
from pipeline.pseudonym import default_key_file
from pipeline.ranks import Alone, World
from pipeline.resume import read_described

LIBRARIES = ("numpy", "torch", "opencv-python-headless", "mpi4py", "msgspec", "h5py")
SHM = Path("/dev/shm")  # noqa: S108  where the decode child and MPI share memory
SHM_BYTES = 256 << 20
SKEW_S = 2.0
PING = 21


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would go wrong."""

    name: str
    seen: str
    cure: str


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: a run that is about to start. `out` may not exist yet."""

    config: Config
    out: Path | None = None
    weights: tuple[Path, ...] = ()
    key_file: Path | None = None


class Seat(msgspec.Struct, frozen=True):
    """What one rank says of where it sits."""

    rank: int
    host: str
    n_cpus: int
    gpu: str
    versions: dict[str, str]
    shm_free: int
    n_left: int = 0


def examine(patient: Patient) -> list[Finding] | None:
    """All findings, on root; None on the other ranks."""
    world, found = _world()
    seats = [msgspec.json.decode(data, type=Seat) for data in world.gather(msgspec.json.encode(_seat(world.rank)))]
    offsets = clock_offsets(world)
    if world.rank or launched_rank():
        return None
    found += [*crowded(seats, patient.config), *shared_gpus(seats), *mixed_versions(seats), *full_memory(seats)]
    found += left_in_memory(seats)
    found += skewed_clocks(offsets)
    for look in (unwritable, unlocked, no_home, wrong_weights, long_array, short_walltime):
        found += look(patient)
    return found


def _world() -> tuple[Alone | World, list[Finding]]:
    """The world, or a lonely rank with what keeps it from the others."""
    try:
        return connect(), []
    except ConfigurationError:
        pass
    n = launched_size()
    if "SLURM_STEP_NUM_TASKS" in os.environ and not any(name in os.environ for name in SIZE[:3]):
        cure = "srun --mpi=pmi2 (MPICH and its kin) or --mpi=pmix (Open MPI); `srun --mpi=list` says what is there"
        return Alone(), [Finding("wrong-pmi", f"srun started {n} tasks without a PMI that this MPI speaks", cure)]
    cure = "start with the mpiexec of the MPI that mpi4py is built for: `python -m mpi4py --mpi-library` names it"
    return Alone(), [Finding("singletons", f"{n} ranks were launched, each of which sees itself alone", cure)]


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


def unwritable(patient: Patient) -> Iterator[Finding]:
    """A run's folder that cannot be written."""
    if patient.out is not None and (error := _tried(lambda: _write(_standing(patient.out)))) is not None:
        cure = "choose another --out: on most clusters that is below /scratch or /work, not HOME"
        yield Finding("unwritable", f"{patient.out}: {error.strerror}", cure)


def unlocked(patient: Patient) -> Iterator[Finding]:
    """A file system without locks, or that has gone stale."""
    if patient.out is None:
        return
    error = _tried(lambda: _lock(_standing(patient.out)))
    if error is not None and error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
        cure = "Lustre: mounted with -o flock? NFS: is the lock service up? Stale: log in anew, or another --out"
        yield Finding("no-locks", f"{patient.out}: {error.strerror}", cure)


def no_home(patient: Patient) -> Iterator[Finding]:
    """A key that can neither be read nor be made."""
    key = patient.key_file or default_key_file()
    if not key.exists() and (error := _tried(lambda: _write(_standing(key.parent)))) is not None:
        cure = "make the key on the login node (`drenet index`), or name a file with --key-file or $DRENET_KEY_FILE"
        yield Finding("home-read-only", f"{key} is not there and cannot be made: {error.strerror}", cure)


def wrong_weights(patient: Patient) -> Iterator[Finding]:
    """Checkpoints that are missing, or not those that the run was begun with."""
    begun = _begun(patient.out)
    for number, path in enumerate(patient.weights):
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            yield Finding("weights", f"{path}: {error.strerror}", "name a checkpoint that every node can read")
            continue
        if begun and digest != (begun[number] if number < len(begun) else ""):
            cure = "name the checkpoint that the run was begun with, or choose another --out"
            yield Finding("weights", f"{path} is not what {patient.out} was begun with", cure)


def _begun(out: Path | None) -> list[str]:
    try:
        return [network.sha256 for network in read_described(out).networks] if out else []
    except PipelineError:
        return []


def long_array(patient: Patient) -> Iterator[Finding]:
    """More tasks in an array than the site allows."""
    parts = patient.config.cluster.parts
    if parts <= 1:
        return
    told = _said("scontrol", "show", "config")
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", told)
    if limit and parts >= int(limit[1]):
        cure = f"parts = {int(limit[1]) - 1} at most; more ranks in each part do the same"
        yield Finding("array-too-long", f"[cluster] parts = {parts}, the site's MaxArraySize is {limit[1]}", cure)


def short_walltime(patient: Patient) -> Iterator[Finding]:
    """A time limit within which the manifest cannot be screened, as far as studies have been timed."""
    if patient.out is None:
        return
    cluster = patient.config.cluster
    try:
        needed = estimate(patient.out, patient.out, cluster, patient.config.run)
    except PipelineError:
        return
    if needed.walltime_s > 60 * cluster.walltime_min * cluster.legs:
        seen = f"{needed.n_open} studies need about {needed.walltime_s / 60:,.0f} min, asked for are {cluster.walltime_min}"
        cure = "a longer walltime_min, more nodes, or legs; a job that is requeued goes on by itself"
        yield Finding("walltime", seen, cure)


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _tried(act: Callable[[], None]) -> OSError | None:
    try:
        act()
    except OSError as error:
        return error
    return None


def _standing(folder: Path | None) -> Path:
    """The lowest folder on the way to `folder` that exists."""
    path = (folder or Path()).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _write(folder: Path) -> None:
    path = folder / f".drenet-doctor-{os.getpid()}"
    path.write_bytes(b"x")
    path.unlink()


def _lock(folder: Path) -> None:
    """Take a lock and see that it holds against a second taker."""
    path = folder / f".drenet-doctor-{os.getpid()}.lock"
    try:
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            raise OSError(errno.ENOLCK, "a lock does not keep a second taker out")
    finally:
        path.unlink(missing_ok=True)
