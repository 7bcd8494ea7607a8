"""Messages of any size, in any order, on any number of ranks, arrive; nobody waits for a send."""

import subprocess
import sys
from pathlib import Path

import pytest

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
