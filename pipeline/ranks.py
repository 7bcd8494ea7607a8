"""The ranks: broadcast, gather, dealing by request and reply; `Alone` where there is no MPI.

Root (rank 0) deals; up to `root_computes_up_to` ranks it works too, and answers requests between the slices of its own study
(`tick`).

A deal is one conversation: a worker asks before it begins the last task it holds, reports each finished task, and may leave
early; root answers every ask with tasks, or with none, and then hears the worker's last reports and goodbye. Every conversation
is with root: so where the MPI survives a death, the others need not hear of it. What the dead rank held is dealt again.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

from pipeline.errors import DeviceError, RankDied
from pipeline.mail import POLL_S, Mail, pack, unpack

ASK, REPORT, LEAVE, BYE = b"A", b"R", b"L", b"B"
GATHER, TAKEN, COMING, FIRST_DEAL = 11, 12, 13, 100


class Source(Protocol):
    """What root deals from: opaque task bytes out, opaque report bytes in."""

    def give(self, rank: int) -> list[bytes]:
        """Tasks for `rank` now."""

    def report(self, rank: int, report: bytes) -> None:
        """`rank` reports one finished task."""

    def lost(self, rank: int, *, died: bool = False) -> None:
        """`rank` does no more, perhaps without a last word: what it holds is open again."""

    @property
    def finished(self) -> bool:
        """Nothing left to give and nothing in flight."""


Task = tuple[bytes, Callable[[bytes], None]]
Tasks = Generator[Task, None, None]


def never() -> bool:
    """The pause that is never asked for."""
    return False


class Alone:
    """A world of one rank: no MPI needed."""

    rank = 0
    size = 1

    def broadcast(self, data: bytes | None) -> bytes:
        """Root's bytes, on every rank."""
        if data is None:
            raise ValueError("root broadcasts bytes")
        return data

    def deal(self, source: Source | None, *, pause: Callable[[], bool] = never) -> Tasks:
        """Yield (task, done) until the source is finished; call done(report) after each task."""
        if source is None:
            raise ValueError("root deals from a source")
        while not source.finished and not pause():
            for task in source.give(0):
                if not pause():
                    yield task, lambda report: source.report(0, report)

    def tick(self) -> None:
        """Nothing to serve."""

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes on root."""
        return [data]

    def gather_living(self, data: bytes) -> dict[int, bytes]:
        """Every rank's bytes on root, by rank."""
        return {0: data}


class World(Mail):
    """The ranks of one MPI communicator."""

    def __init__(self, communicator: Any, *, root_computes_up_to: int = 32, survives: bool = False) -> None:
        super().__init__(communicator, survives=survives)
        self._root_computes = self.size <= root_computes_up_to
        self._tag = FIRST_DEAL
        self._desk: Desk | None = None

    def broadcast(self, data: bytes | None) -> bytes:
        """Root's bytes, on every rank; every rank's digest is compared with root's."""
        received = self._told_one_by_one(data) if self.survives else self._told_together(data)
        self._compare_digests(received)
        return received

    def _told_one_by_one(self, data: bytes | None) -> bytes:
        """Slower than a collective, which a death would break for all."""
        if data is None:
            return self.receive(0, COMING)
        for rank in range(1, self.size):
            self.send(data, rank, COMING)
        return data

    def _told_together(self, data: bytes | None) -> bytes:
        import numpy as np

        self._await_root()
        length = np.array([len(data) if data is not None else 0], dtype=np.int64)
        self._comm.Bcast(length, root=0)
        buffer = bytearray(data) if data is not None else bytearray(int(length[0]))
        step = 1 << 28  # counts beyond 2 GiB overflow in older MPIs
        for start in range(0, len(buffer), step):
            self._comm.Bcast(memoryview(buffer)[start : start + step], root=0)
        return bytes(buffer)

    def _await_root(self) -> None:
        """Wait for root politely: inside a collective a waiting rank burns a core."""
        if self.rank:
            self.receive(0, COMING)
        else:
            for rank in range(1, self.size):
                self.send(b"", rank, COMING)

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes on root, in order of rank; an empty list elsewhere. Raises RankDied where one is missing."""
        if self.rank:
            self.send(data, 0, GATHER)
            self.receive(0, TAKEN)  # keeps two gathers apart
            return []
        return [data, *(self._collected(rank) for rank in range(1, self.size))]

    def gather_living(self, data: bytes) -> dict[int, bytes]:
        """As `gather`, by rank, without the dead."""
        if self.rank:
            self.gather(data)
            return {}
        received = {0: data}
        for rank in range(1, self.size):
            try:
                received[rank] = self._collected(rank)
            except RankDied:
                continue
        return received

    def _collected(self, rank: int) -> bytes:
        message = self.receive(rank, GATHER)
        self.send(b"", rank, TAKEN)
        return message

    def deal(self, source: Source | None, *, pause: Callable[[], bool] = never) -> Tasks:
        """Yield (task, done) on every rank until root's source is finished; `pause()` true: begin nothing new.

        Close the generator (contextlib.closing) to leave early; what this rank holds is then open again, and the others are
        let go as they ask.
        """
        self._tag += 2  # a late message of one deal is never taken for one of the next
        if self.rank:
            return self._work(pause)
        if source is None:
            raise ValueError("root deals from a source")
        return self._deal(source, pause)

    def tick(self) -> None:
        """Let root answer requests; called between the slices of its own study."""
        if self._desk is not None:
            self._desk.serve()

    def _deal(self, source: Source, pause: Callable[[], bool]) -> Tasks:
        desk = self._desk = Desk(self, self._tag, source, pause)
        try:
            while self._root_computes and not source.finished and not desk.closing():
                desk.serve()
                tasks = source.give(0)
                for task in tasks:
                    if not desk.closing():
                        yield task, lambda report: source.report(0, report)
                        desk.serve()
                if not tasks:
                    time.sleep(POLL_S)
            if not self._root_computes:
                desk.serve_until_empty()
        finally:
            if not source.finished:
                desk.drain()
            desk.serve_until_empty()
            self._desk = None

    def _work(self, pause: Callable[[], bool]) -> Tasks:
        """Work through what root sends, asking for more before the last held task is begun."""
        held: deque[bytes] = deque()
        released = False
        self._say(ASK)
        try:
            while tasks := unpack(self.receive(0, self._tag + 1)):
                held.extend(tasks)
                while held:
                    if pause():
                        return
                    task = held.popleft()
                    if not held:
                        self._say(ASK)
                    yield task, lambda report: self._say(REPORT + report)
            released = True
        finally:
            if not released:
                self._leave()
            self._say(BYE)

    def _leave(self) -> None:
        """Give back what is held, and wait until root has let this rank go."""
        self._say(LEAVE)
        while unpack(self.receive(0, self._tag + 1)):
            pass  # tasks that were on their way: root has them back

    def _say(self, message: bytes) -> None:
        self.send(message, 0, self._tag)

    def _compare_digests(self, data: bytes) -> None:
        mine = hashlib.sha256(data).digest()
        wrong = [rank for rank, digest in self.gather_living(mine).items() if digest != mine]
        if wrong:
            raise DeviceError(f"ranks {wrong} received other bytes than root sent: check the interconnect")


class Desk:
    """Where root answers: who waits for tasks, who has been let go."""

    def __init__(self, world: World, tag: int, source: Source, pause: Callable[[], bool]) -> None:
        self._world, self._tag, self._source, self._pause = world, tag, source, pause
        self._waiting: set[int] = set()
        self._working = set(range(1, world.size)) - world.dead
        self._buried = set(world.dead)
        self._draining = False

    def closing(self) -> bool:
        """Nothing new is begun any more."""
        return self._draining or self._pause()

    def drain(self) -> None:
        """Let every rank go as it asks."""
        self._draining = True

    def serve(self) -> None:
        """Take in every message that has arrived, then answer whoever can be given work or let go."""
        while (arrived := self._world.receive_any(self._tag)) is not None:
            self._take(*arrived)
        for rank in self._world.dead - self._buried:
            self._bury(rank)
        for rank in sorted(self._waiting):
            tasks = [] if self.closing() else self._source.give(rank)
            if tasks or self._source.finished or self.closing():
                self._world.send(pack(tasks), rank, self._tag + 1)
                self._waiting.discard(rank)

    def serve_until_empty(self) -> None:
        """Serve until every worker has reported its last task and said goodbye."""
        while self._working:
            self.serve()
            time.sleep(POLL_S)

    def _bury(self, rank: int) -> None:
        self._buried.add(rank)
        self._waiting.discard(rank)
        self._working.discard(rank)
        self._source.lost(rank, died=True)

    def _take(self, rank: int, message: bytes) -> None:
        if message.startswith(REPORT):
            self._source.report(rank, message[1:])
        elif message == BYE:
            self._working.discard(rank)
        elif rank in self._working:
            self._waiting.add(rank)
            if message == LEAVE:
                self._source.lost(rank)
                self.drain()
