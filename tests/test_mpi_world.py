"""The MPI door: every task is done once, one rank's trouble is everybody's, N singletons are found out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import tool

ROOT = Path(__file__).parents[1]
PREAMBLE = """
import sys
from contextlib import closing
from pathlib import Path
from pipeline.run.deal import Deal
from pipeline.errors import StorageError, PipelineError
from pipeline.mpi.launch import connect
from pipeline.mpi.agreement import trouble_shared, agreed, root_first

class Numbers:
    def __init__(self, n, size):
        self.deal, self.seen = Deal([(i, 1.0) for i in range(n)], size=size), []
    def give(self, rank):
        return [str(i).encode() for i in self.deal.give(rank)]
    def report(self, rank, report):
        self.deal.done(rank, int(report)); self.seen.append(int(report))
    def lost(self, rank, *, died=False):
        self.deal.lost(rank)
    @property
    def finished(self):
        return self.deal.finished

world = connect(root_computes_up_to=int(sys.argv[1]))
out = Path(sys.argv[2])
def work(source, stop_after=None):
    n = 0
    with closing(world.deal(source)) as tasks:
        for task, done in tasks:
            if n == stop_after:
                break
            done(task); n += 1
    return n
"""


def _run(code, tmp_path, ranks=3, root_computes_up_to=32):
    (tmp_path / "program.py").write_text(PREAMBLE + code)
    return subprocess.run(
        [tool("mpiexec"), "-n", str(ranks), sys.executable, tmp_path / "program.py", str(root_computes_up_to), tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("root_computes_up_to", [1, 32])
def test_every_task_is_done_exactly_once_deal_after_deal(root_computes_up_to, tmp_path):
    code = """
for round in range(3):
    source = Numbers(500, world.size) if world.rank == 0 else None
    work(source)
    if source:
        (out / str(round)).write_text(str(sorted(source.seen) == list(range(500)) and source.finished))
"""
    done = _run(code, tmp_path, root_computes_up_to=root_computes_up_to)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / str(number)).read_text() for number in range(3)] == ["True"] * 3


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_a_rank_that_leaves_gives_back_what_it_held_and_lets_the_others_go(leaver, tmp_path):
    code = f"""
source = Numbers(100000, world.size) if world.rank == 0 else None
n = work(source, stop_after=5 if world.rank == {leaver} else None)
if source:
    held = sum(len(source.deal.held_by(rank)) for rank in range(1, world.size))
    (out / "told").write_text(str((held, len(source.seen) == len(set(source.seen)), source.finished)))
again = Numbers(50, world.size) if world.rank == 0 else None
work(again)
if again:
    (out / "again").write_text(str(sorted(again.seen) == list(range(50))))
"""
    done = _run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "told").read_text() == "(0, True, False)"
    assert (tmp_path / "again").read_text() == "True"


def test_the_trouble_of_one_rank_is_raised_on_every_rank(tmp_path):
    code = """
try:
    with trouble_shared(world):
        if world.rank == 1:
            raise StorageError("full")
except PipelineError as error:
    (out / f"rank{world.rank}").write_text(f"{error} {error.exit_code}")
"""
    done = _run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(3)] == ["full 74"] * 3


def test_what_root_decides_or_refuses_reaches_every_rank(tmp_path):
    code = """
def refuse():
    raise StorageError("no")
told = agreed(world, lambda: b"x" * 1_000_000)
kept = None
with root_first(world):
    if world.rank == 0:
        kept = "mine"
try:
    agreed(world, refuse)
except PipelineError as error:
    first = str(error)
try:
    with root_first(world):
        if world.rank == 0:
            refuse()
except PipelineError as error:
    (out / f"rank{world.rank}").write_text(f"{len(told)} {kept} {first} {error}")
"""
    done = _run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(3)] == ["1000000 mine no no"] + ["1000000 None no no"] * 2


def test_n_singletons_are_found_out_with_the_cure(drenet, weights, tmp_path):
    done = drenet("screen", tmp_path, "--weights", weights, "--out", tmp_path / "run", OMPI_COMM_WORLD_SIZE="3")
    assert (done.returncode, "--mpi=pmi2" in done.stdout) == (2, True), done.stdout
