"""Messages of any size, in any order, on any number of ranks, arrive; nobody waits for a send."""

import subprocess
import sys
from pathlib import Path

import mpi4py
import pytest

from pipeline.errors import RankDied
from pipeline.mpi.messages import Mail

PROGRAM = Path(__file__).with_name("messages.py")


@pytest.mark.parametrize("how", ["as they are", "synchronous"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_messages_that_cross_never_wait_for_each_other(ranks, how):
    launcher = Path(sys.executable).with_name("mpiexec")
    done = subprocess.run(
        [launcher, "-n", str(ranks), sys.executable, PROGRAM, how], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{ranks} ranks exchanged messages of up to 20,000,000 bytes\n"


def test_an_mpi_that_fails_because_a_rank_died_is_a_death_and_no_bug(monkeypatch):
    monkeypatch.setattr(mpi4py.rc, "initialize", False)  # this process shall be no rank
    from mpi4py import MPI

    class Communicator:
        """Of two ranks, the other of which has died amid a message."""

        def Get_rank(self):  # noqa: N802  MPI's name
            return 0

        def Get_size(self):  # noqa: N802
            return 2

        def Improbe(self, **_):  # noqa: N802
            raise MPI.Exception(MPI.ERR_OTHER)

    with pytest.raises(RankDied, match="start the same command again"):
        Mail(Communicator()).receive(1, 7)
