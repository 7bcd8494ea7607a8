"""The MPI door: every task is done once, one rank's trouble is everybody's, N singletons are found out."""

import subprocess
from pathlib import Path

import pytest

from tests.tools import environment, program, tool

ROOT = Path(__file__).parents[1]


def _run(tmp_path, what, *arguments, root_computes_up_to=32):
    command = [tool("mpiexec"), "-n", "3", *program("several_ranks"), what, str(root_computes_up_to), tmp_path, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def _told(tmp_path):
    return [(tmp_path / f"rank{rank}").read_text() for rank in range(3)]


@pytest.mark.parametrize("root_computes_up_to", [1, 32])
def test_every_task_is_done_exactly_once_deal_after_deal(root_computes_up_to, tmp_path):
    _run(tmp_path, "deal_after_deal", root_computes_up_to=root_computes_up_to)
    assert [(tmp_path / str(number)).read_text() for number in range(3)] == ["True"] * 3


@pytest.mark.parametrize("leaver", ["0", "1", "2"])
def test_a_rank_that_leaves_gives_back_what_it_held_and_lets_the_others_go(leaver, tmp_path):
    _run(tmp_path, "one_leaves", leaver)
    assert (tmp_path / "told").read_text() == "(0, True, False)"
    assert (tmp_path / "again").read_text() == "True"


def test_the_trouble_of_one_rank_is_raised_on_every_rank(tmp_path):
    _run(tmp_path, "one_is_in_trouble")
    assert _told(tmp_path) == ["full 74"] * 3


def test_what_root_decides_or_refuses_reaches_every_rank(tmp_path):
    _run(tmp_path, "root_decides")
    assert _told(tmp_path) == ["1000000 mine no no"] + ["1000000 None no no"] * 2


def test_n_singletons_are_found_out_with_the_cure(drenet, weights, tmp_path):
    done = drenet("screen", tmp_path, "--weights", weights, "--out", tmp_path / "run", OMPI_COMM_WORLD_SIZE="3")
    assert (done.returncode, "--mpi=pmi2" in done.stdout) == (2, True), done.stdout
