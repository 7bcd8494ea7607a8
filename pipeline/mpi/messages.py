"""Messages between the ranks of one MPI communicator: bytes, never pickles, and who of them has died.

Nobody ever waits for a send: it is begun, and carried on whenever its rank polls, until the receiver has taken it. So the only
thing that a rank can wait for is a message, whatever the sizes of messages and whatever the MPI keeps in buffers of its own
(docs/design/007-messages.md). No call of MPI blocks: waiting is polling with a short sleep, so that ranks waiting on an
oversubscribed machine leave the cores to those that work.

Where the MPI can survive a rank's death (Open MPI 5, `mpirun --with-ft ulfm`) the dead are noted as MPI tells of them: nothing
more is sent to them, and no message of theirs is taken in. Root's death is everybody's end. ULFM: User Level Failure
Mitigation, MPI Forum, chapter "Fault Tolerance" of its proposal.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RankDied
from pipeline.mpi.stall import moved

POLL_S = 0.0005
PIECE = 1 << 28
"""A message travels in pieces of so many bytes and a shorter last one: counts beyond 2 GiB overflow in older MPIs."""
LEAVING_S = 10.0
"""A leaving rank waits so long for what it sent to be taken in."""


def survives_deaths() -> bool:
    """Whether this program was started under an MPI that goes on when a rank dies."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112  Open MPI's spelling


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a message on its way, to or from `rank`; MPI reads or fills `data` until `request` is complete."""

    rank: int
    tag: int
    data: bytes | bytearray
    request: Any


class Mail:
    """What one rank sends and receives."""

    def __init__(self, communicator: Any, *, survives: bool = False) -> None:
        self._comm = communicator
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()
        self.survives = survives
        self.dead: set[int] = set()
        self._leaving: list[Piece] = []
        self._coming: list[Piece] = []
        self._partial: dict[tuple[int, int], bytearray] = {}

    def send(self, data: bytes, rank: int, tag: int) -> None:
        """Begin to send one message, and return at once; to a dead rank, none."""
        for start in range(0, len(data) + 1, PIECE):
            if rank in self.dead:
                return
            piece = data[start : start + PIECE]
            try:
                self._leaving.append(Piece(rank, tag, piece, self._begin(piece, rank, tag)))
            except Exception as error:  # noqa: BLE001  an MPI.Exception; the module is not imported for its type's sake
                self._note_deaths(error)

    def receive(self, rank: int, tag: int) -> bytes:
        """The next message of `rank`, waited for with little CPU; RankDied where none will come."""
        while (message := self.arrived(rank, tag)) is None:
            time.sleep(POLL_S)
        return message

    def arrived(self, rank: int, tag: int) -> bytes | None:
        """The next message of `rank` if it is there; RankDied where none will come."""
        self.progress()
        message = self._taken(rank, tag)
        if message is None and rank in self.dead:
            raise RankDied(f"rank {rank} died: start the same command again, the run resumes")
        return message[1] if message else None

    def receive_any(self, tag: int) -> tuple[int, bytes] | None:
        """(rank, message) that has arrived from anybody alive, or None."""
        from mpi4py import MPI

        self.progress()
        while (message := self._taken(MPI.ANY_SOURCE, tag)) is not None:
            if message[0] not in self.dead:
                return message
        return None

    def progress(self) -> None:
        """Carry on what this rank has sent."""
        self._leaving = [piece for piece in self._leaving if piece.rank not in self.dead and not self._complete(piece)]

    def flush(self, limit_s: float = LEAVING_S) -> None:
        """Carry on until all that was sent has been taken in, or `limit_s` have passed."""
        ends = time.monotonic() + limit_s
        while self._leaving and time.monotonic() < ends:
            self.progress()
            time.sleep(POLL_S)

    def _begin(self, data: bytes, rank: int, tag: int) -> Any:
        return self._comm.Isend(data, dest=rank, tag=tag)

    def _taken(self, rank: int, tag: int) -> tuple[int, bytes] | None:
        """A whole message of `rank` (or of MPI.ANY_SOURCE) if its last piece is there."""
        self._take_in(rank, tag)
        while (piece := self._first_complete(rank, tag)) is not None:
            begun = self._partial.setdefault((piece.rank, piece.tag), bytearray())
            begun += piece.data
            if len(piece.data) < PIECE:
                del self._partial[piece.rank, piece.tag]
                return piece.rank, bytes(begun)
        return None

    def _take_in(self, rank: int, tag: int) -> None:
        """Begin to receive every piece that is announced.

        A matched probe: over a network a plain one may announce again what is already being received.
        """
        from mpi4py import MPI

        status = MPI.Status()
        try:
            while (message := self._comm.Improbe(source=rank, tag=tag, status=status)) is not None:
                buffer = bytearray(status.Get_count(MPI.BYTE))
                self._coming.append(Piece(status.Get_source(), tag, buffer, message.Irecv(buffer)))
        except MPI.Exception as error:
            self._note_deaths(error)

    def _first_complete(self, rank: int, tag: int) -> Piece | None:
        """The first complete piece that no earlier one of the same rank and tag is still before; it is taken off the list."""
        from mpi4py import MPI

        waited_for: set[int] = set()
        for piece in [piece for piece in self._coming if piece.tag == tag and rank in (MPI.ANY_SOURCE, piece.rank)]:
            if piece.rank in waited_for:
                continue
            if piece.rank in self.dead or self._complete(piece):
                self._coming.remove(piece)
                if piece.rank not in self.dead:
                    return piece
            waited_for.add(piece.rank)
        return None

    def _complete(self, piece: Piece) -> bool:
        """Whether MPI is done with it; of the dead it never is."""
        from mpi4py import MPI

        try:
            complete = bool(piece.request.Test())
        except MPI.Exception as error:
            self._note_deaths(error)
            return False
        if complete:
            moved()
        return complete

    def _note_deaths(self, error: Exception) -> None:
        """Who has died. Raises RankDied where that was root, or where this MPI does not survive a death."""
        from mpi4py import MPI

        deaths = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)
        if not (self.survives and isinstance(error, MPI.Exception) and error.Get_error_class() in deaths):
            said = str(error).splitlines()[-1]
            raise RankDied(f"MPI failed, as it does when a rank dies ({said}): start the same command again") from error
        self._comm.Ack_failed(self.size)  # or every later look at messages of anybody would fail for the same death
        ours = self._comm.Get_group()
        self.dead.update(MPI.Group.Translate_ranks(self._comm.Get_failed(), None, ours))
        if 0 in self.dead:
            raise RankDied("root died: start the same command again, the run resumes") from error
