"""`python tests/synchronous.py drenet-arguments...`: drenet whose every message is complete only once its receiver takes it.

A pair of ranks that wait for each other's send then hangs every time, and not only when a message is larger than what the
MPI keeps.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.cli import main
from pipeline.mpi.messages import Mail


def send_synchronously():
    """From now on every send of this process is MPI_Issend."""
    Mail._begin = lambda self, data, rank, tag: self._comm.Issend(data, dest=rank, tag=tag)


if __name__ == "__main__":
    send_synchronously()
    sys.exit(main())
