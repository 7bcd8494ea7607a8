"""Messages between the ranks of one MPI communicator: bytes, never pickles, and who of them has died.

Waiting is polling with a short sleep, so that ranks waiting on an oversubscribed machine leave the cores to those that work.
Where the MPI can survive a rank's death (Open MPI 5, `mpirun --with-ft ulfm`) the dead are noted as MPI tells of them: nothing
more is sent to them, and no message of theirs is taken in. Root's death is everybody's end. ULFM: User Level Failure
Mitigation, MPI Forum, chapter "Fault Tolerance" of its proposal.
"""

from __future__ import annotations

import os
import time
from typing import Any

from pipeline.errors import RankDied

POLL_S = 0.0005


def survives_deaths() -> bool:
    """Whether this program was started under an MPI that goes on when a rank dies."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112  Open MPI's spelling


class Mail:
    """What one rank sends and receives."""

    def __init__(self, communicator: Any, *, survives: bool = False) -> None:
        self._comm = communicator
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()
        self.survives = survives
        self.dead: set[int] = set()

    def send(self, data: bytes, rank: int, tag: int) -> None:
        """One message; to a dead rank, none."""
        if rank in self.dead:
            return
        try:
            self._comm.Send(data, dest=rank, tag=tag)
        except Exception as error:  # noqa: BLE001  an MPI.Exception; the module is not imported for its type's sake
            self._note_deaths(error)

    def receive(self, rank: int, tag: int) -> bytes:
        """The next message of `rank`, waited for with little CPU; RankDied where none will come."""
        while (arrived := self._arrived(rank, tag)) is None:
            if rank in self.dead:
                raise RankDied(f"rank {rank} died: start the same command again, the run resumes")
            time.sleep(POLL_S)
        return arrived[1]

    def receive_any(self, tag: int) -> tuple[int, bytes] | None:
        """(rank, message) that has arrived from anybody alive, or None."""
        from mpi4py import MPI

        while (arrived := self._arrived(MPI.ANY_SOURCE, tag)) is not None:
            if arrived[0] not in self.dead:
                return arrived
        return None

    def _arrived(self, rank: int, tag: int) -> tuple[int, bytes] | None:
        from mpi4py import MPI

        status = MPI.Status()
        try:
            if not self._comm.Iprobe(source=rank, tag=tag, status=status):
                return None
            sender, buffer = status.Get_source(), bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv(buffer, source=sender, tag=tag)
        except MPI.Exception as error:
            self._note_deaths(error)
            return None
        return sender, bytes(buffer)

    def _note_deaths(self, error: Exception) -> None:
        """Who has died; what is no death, or root's, is raised."""
        from mpi4py import MPI

        deaths = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)
        if not (self.survives and isinstance(error, MPI.Exception) and error.Get_error_class() in deaths):
            raise error
        self._comm.Ack_failed(self.size)  # or every later look at messages of anybody would fail for the same death
        ours = self._comm.Get_group()
        self.dead.update(MPI.Group.Translate_ranks(self._comm.Get_failed(), None, ours))
        if 0 in self.dead:
            raise RankDied("root died: start the same command again, the run resumes") from error


def leave_mpi(mpi: Any) -> None:
    """Finalise with all ranks; what a leaving rank said last and nobody needed to hear is taken in, or MPI would complain."""
    if survives_deaths():
        return  # finalising would wait for the dead
    while mpi.COMM_WORLD.Iprobe(source=mpi.ANY_SOURCE, tag=mpi.ANY_TAG):
        status = mpi.Status()
        mpi.COMM_WORLD.Probe(source=mpi.ANY_SOURCE, tag=mpi.ANY_TAG, status=status)
        mpi.COMM_WORLD.Recv(bytearray(status.Get_count(mpi.BYTE)), source=status.Get_source(), tag=status.Get_tag())
    mpi.Finalize()


def pack(parts: list[bytes]) -> bytes:
    """Length-prefixed concatenation."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def unpack(data: bytes) -> list[bytes]:
    """The parts that `pack` joined."""
    parts, start = [], 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        parts.append(data[start + 8 : start + 8 + length])
        start += 8 + length
    return parts
