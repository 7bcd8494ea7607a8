"""The ranks: broadcast, gather, dealing by request and reply; `Alone` where there is no MPI.

Root (rank 0) deals; up to `root_computes_up_to` ranks it works too, and answers requests between the slices of its own study
(`tick`).

A deal is a conversation of each worker with root (conversation.py): so where the MPI survives a death, the others need not
hear of it. What the dead rank held is dealt again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

from pipeline.errors import DeviceError, RankDied
from pipeline.mpi.conversation import Desk, Source, Worker
from pipeline.mpi.messages import POLL_S, Mail
from pipeline.mpi.stall import moved

GATHER = 11
TAKEN = 12
COMING = 13
FIRST_DEAL = 100
SPEAKS_EVERY_S = 30.0
"""A worker amid a long task says so now and then."""
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
        moved()

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
        self._worker: Worker | None = None
        self._speaks_at_s = 0.0

    def broadcast(self, data: bytes | None) -> bytes:
        """Root's bytes, on every rank; every rank's digest is compared with root's."""
        received = data if data is not None else self.receive(self._told_by(self.rank), COMING)
        for rank in self._tells(self.rank):
            self.send(received, rank, COMING)
        self._compare_digests(received)
        return received

    def _tells(self, rank: int) -> list[int]:
        """Whom `rank` hands a broadcast on to: its children in a binomial tree, the largest subtree first.

        Where ranks may die root tells each by itself, so that a death cuts nobody off.
        """
        if self.survives:
            return [] if rank else list(range(1, self.size))
        span = (rank & -rank) or self.size
        steps = [1 << power for power in range(self.size.bit_length())]
        return [rank + step for step in reversed(steps) if step < span and rank + step < self.size]

    def _told_by(self, rank: int) -> int:
        """The parent in the tree of `_tells`: the rank without its lowest bit."""
        return 0 if self.survives else rank & (rank - 1)

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes on root, in order of rank; an empty list elsewhere. Raises RankDied where one is missing."""
        received = self.gather_living(data)
        if self.rank == 0 and len(received) < self.size:
            raise RankDied("a rank died: start the same command again, the run resumes")
        return list(received.values())

    def gather_living(self, data: bytes) -> dict[int, bytes]:
        """As `gather`, by rank, without the dead. No rank returns before root has heard all of them."""
        if self.rank:
            self.send(data, 0, GATHER)
            self.receive(0, TAKEN)
            return {}
        received = {0: data}
        for rank in range(1, self.size):
            with suppress(RankDied):
                received[rank] = self.receive(rank, GATHER)
        for rank in range(1, self.size):
            self.send(b"", rank, TAKEN)
        return received

    def deal(self, source: Source | None, *, pause: Callable[[], bool] = never) -> Tasks:
        """Yield (task, done) on every rank until root's source is finished; `pause()` true: begin nothing new.

        Close the generator (contextlib.closing) to leave early; what this rank holds is then open again, and the others are
        released as they ask.
        """
        self._tag += 2  # a late message of one deal is never taken for one of the next
        if self.rank:
            return self._work(pause)
        if source is None:
            raise ValueError("root deals from a source")
        return self._deal(source, pause)

    def tick(self) -> None:
        """Carry on what is under way, root's answers among it; called between the slices of a study."""
        moved()
        if self._desk is not None:
            self._serve(self._desk)
            return
        if self._worker is not None and time.monotonic() > self._speaks_at_s:
            self._worker.is_alive()
            self._speaks_at_s = time.monotonic() + SPEAKS_EVERY_S
        self.progress()

    def _deal(self, source: Source, pause: Callable[[], bool]) -> Tasks:
        desk = self._desk = Desk(range(1, self.size), source, pause, partial(self.send, tag=self._tag + 1))
        try:
            while self._root_computes and not source.finished and not desk.closing:
                self.tick()
                tasks = source.give(0)
                for task in tasks:
                    if not desk.closing:
                        yield task, lambda report: source.report(0, report)
                        self.tick()
                if not tasks:
                    time.sleep(POLL_S)
            if not self._root_computes:
                self._serve_until_empty(desk)
        finally:
            if not source.finished:
                desk.drain()
            self._serve_until_empty(desk)
            self._desk = None

    def _serve(self, desk: Desk) -> None:
        """Take in every message that has arrived, then answer."""
        while (arrived := self.receive_any(self._tag)) is not None:
            desk.hear(*arrived)
        desk.bury(self.dead)
        desk.answer()

    def _serve_until_empty(self, desk: Desk) -> None:
        """Serve until every worker has reported its last task and said goodbye."""
        while not desk.empty:
            self._serve(desk)
            time.sleep(POLL_S)

    def _work(self, pause: Callable[[], bool]) -> Tasks:
        """Work through what root answers, until it releases this rank or `pause()` is true."""
        worker = self._worker = Worker(partial(self.send, rank=0, tag=self._tag))
        worker.ask()
        try:
            while not worker.released and not pause():
                task = worker.next_task()
                if task is None:
                    self._hear(worker)
                else:
                    yield task, worker.report
        finally:
            if not worker.released:
                worker.leave()
            while not worker.released:
                self._hear(worker)
            worker.say_goodbye()
            self._worker = None

    def _hear(self, worker: Worker) -> None:
        """Take in root's answer if it is there, else wait a little."""
        answer = self.arrived(0, self._tag + 1)
        if answer is None:
            time.sleep(POLL_S)
        else:
            worker.hear(answer)

    def _compare_digests(self, data: bytes) -> None:
        mine = hashlib.sha256(data).digest()
        wrong = [rank for rank, digest in self.gather_living(mine).items() if digest != mine]
        if wrong:
            raise DeviceError(f"ranks {wrong} received other bytes than root sent: check the interconnect")
