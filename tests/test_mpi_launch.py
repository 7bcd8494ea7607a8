"""Starting: MPI before everything heavy, short lines for Slurm's PMI, and a node's memory cleared of what the dead left."""

import mmap
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.mpi import leftovers
from pipeline.submission import doctor
from pipeline.submission.doctor import Seat
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "torch", "cv2", "h5py", "pandas", "scipy", "pydicom", "pyarrow", "matplotlib")
COMMANDS = {
    "screen": ["screen", "A", "--weights", "W", "--out", "R"],
    "index": ["index", "A", "--out", "R"],
    "train": ["train", "A", "--labels", "L", "--task", "covid-vs-bacterial", "--out", "R"],
    "doctor": ["doctor", "--out", "R"],
}


def _looked(tmp_path, *what):
    command = [*program("loaded_before_mpi"), ",".join(HEAVY), *what]
    of_two = environment(PMI_SIZE="2", PMI_RANK="0")
    done = subprocess.run(command, env=of_two, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_ranks_enters_mpi_before_anything_heavy_is_loaded(name, tmp_path):
    assert _looked(tmp_path, "drenet", *COMMANDS[name]) == "loaded before MPI: []"


def test_from_python_too_screen_enters_mpi_before_anything_heavy_is_loaded(tmp_path):
    assert _looked(tmp_path, "python") == "loaded before MPI: []"


def test_a_job_of_submitits_enters_mpi_before_it_loads_the_run(tmp_path):
    """submitit itself has been loaded by then, and the leg's module with it."""
    assert _looked(tmp_path, "leg") == "loaded before MPI: []"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1"])
def test_a_rank_that_is_stopped_before_it_joins_does_not_leave_the_others_waiting(number):
    """MPICH's launcher takes one that exits before MPI_Init for no rank at all: the others would wait for run.join_s."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [mpiexec, "-n", "2", *program("struck_before_joining"), number]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=100, check=False)
    assert done.returncode


class SlurmsPmi:
    """As much of a PMI server of Slurm's as a rank meets before it needs a second one; keeps every line."""

    def __init__(self):
        self.ours, theirs = socket.socketpair()
        self.lines = []
        self.theirs = theirs
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with self.ours.makefile("rb") as told:
            for line in told:
                self.lines.append(line)
                self.ours.sendall(self._answer(line.decode()).encode() + b"\n")

    def _answer(self, line):
        asked = re.match(r"cmd=(\w+)", line)[1]
        if asked == "get" and "PMI_process_mapping" in line:
            return "cmd=get_result rc=0 value=(vector,(0,2,1))"
        return {
            "init": "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1",
            "get_maxes": "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024",
            "get_appnum": "cmd=appnum rc=0 appnum=-1",
            "get_my_kvsname": "cmd=my_kvsname rc=0 kvsname=1.0",
            "get": "cmd=get_result rc=1",
            "put": "cmd=put_result rc=0",
        }.get(asked, "cmd=finalize_ack rc=0")


def test_under_slurms_pmi_a_rank_says_its_address_in_short_lines():
    """Over UCX some have 400 to 1,000 bytes, depending on the heap; Slurm cuts at 1,024, and the ranks would hang."""
    server = SlurmsPmi()
    handle = server.theirs.fileno()
    slurm = {"PMI_FD": str(handle), "PMI_RANK": "0", "PMI_SIZE": "2", "PMI_JOBID": "1.0", "SLURM_PROCID": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPI", "PMI", "SLURM"))}
    process = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.mpi.launch import join; join()"],
        env=environment | slurm | {"PYTHONPATH": str(ROOT)}, pass_fds=[handle], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ends = time.monotonic() + 60
        while not any(b"barrier" in line for line in server.lines) and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
        server.ours.close()
        server.theirs.close()
    puts = [line for line in server.lines if b"cmd=put" in line]
    assert puts, server.lines
    assert max(map(len, puts)) < 300, puts


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A /dev/shm of our own, in which everything is older than a segment in the making."""
    monkeypatch.setattr(leftovers, "SHM", tmp_path)
    monkeypatch.setattr(leftovers, "MAKING_S", -60.0)
    return tmp_path


def test_what_nobody_has_mapped_is_removed_and_what_somebody_has_is_kept(memory):
    for name in ("mpich_shm_dead_0", "sm_segment.n1.0.1.0", "mpich_shm_alive_0", "somebody_elses"):
        (memory / name).write_bytes(bytes(4096))
    with (memory / "mpich_shm_alive_0").open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert [path.name for path in leftovers.left_behind()] == ["mpich_shm_dead_0", "sm_segment.n1.0.1.0"]
        assert leftovers.remove_left_behind() == 2
        assert {path.name for path in memory.iterdir()} == {"mpich_shm_alive_0", "somebody_elses"}
    assert leftovers.remove_left_behind() == 1


def test_a_segment_in_the_making_is_left_alone(memory, monkeypatch):
    (memory / "mpich_shm_new_0").write_bytes(b"")
    monkeypatch.setattr(leftovers, "MAKING_S", 60.0)
    assert leftovers.left_behind() == []


def test_segments_of_another_user_are_left_alone(memory, monkeypatch):
    (memory / "mpich_shm_other_0").write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert leftovers.left_behind() == []


@pytest.mark.parametrize(
    ("pid", "ipc", "n_found"),
    [
        ("pid:[4026531836]", "ipc:[4026531839]", 1),  # on the node itself
        ("pid:[7]", "ipc:[8]", 1),  # a container with a /dev/shm of its own
        ("pid:[7]", "ipc:[4026531839]", 0),  # the node's /dev/shm, but not its processes
    ],
)
def test_where_not_every_process_can_be_seen_nothing_is_removed(pid, ipc, n_found, memory, monkeypatch):
    proc = memory / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "pid").symlink_to(pid)
    (proc / "self" / "ns" / "ipc").symlink_to(ipc)
    monkeypatch.setattr(leftovers, "PROC", proc)
    (memory / "mpich_shm_dead_0").write_bytes(b"")
    assert leftovers.remove_left_behind() == n_found


def test_doctor_counts_what_dead_ranks_left():
    seats = [Seat(0, "n1", 4, "", {}, 1 << 40, 0), Seat(1, "n2", 4, "", {}, 1 << 40, 3)]
    (found,) = doctor.left_in_memory(seats)
    assert (found.name, found.seen) == ("shm-left", "n2: 3 segments of dead ranks of yours in /dev/shm")
