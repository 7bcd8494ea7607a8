"""The two sides of a deal: what a worker says and when, what root answers. No MPI here, so that every order can be tried.

A worker asks before it begins the last task it holds, reports each finished task, may leave early, and says goodbye once
root has released it. Root answers an ask with tasks, or with none: that releases the worker, and is said to it exactly once.
So every message of a deal is taken in before the deal ends, and neither side waits for anything but the other's next message.
tests/test_mpi_conversation.py takes these very classes through every order in which their messages can come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

ASK = b"A"
REPORT = b"R"
LEAVE = b"L"
GOODBYE = b"G"
ALIVE = b"."


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


class Worker:
    """A worker's side; `say` sends a message to root."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._held: deque[bytes] = deque()
        self._leaving = False
        self.released = False
        """Root has nothing more to say to this worker."""

    def ask(self) -> None:
        """Ask for tasks: once when a deal begins, then `next_task` does."""
        self._say(ASK)

    def hear(self, answer: bytes) -> None:
        """Take in what root answers."""
        tasks = msgspec.msgpack.decode(answer, type=list[bytes])
        self.released = not tasks
        if not self._leaving:  # else root has had them back
            self._held.extend(tasks)

    def next_task(self) -> bytes | None:
        """The task to begin now; None where root's answer is waited for."""
        if not self._held:
            return None
        task = self._held.popleft()
        if not self._held:
            self._say(ASK)
        return task

    def report(self, report: bytes) -> None:
        """One task is finished."""
        self._say(REPORT + report)

    def is_alive(self) -> None:
        """A long task moves on: root, which may wait for nothing else, is not to take it for silence."""
        self._say(ALIVE)

    def leave(self) -> None:
        """Give back what is held; root's release is still to be heard."""
        self._leaving = True
        self._held.clear()
        self._say(LEAVE)

    def say_goodbye(self) -> None:
        """The last word, after the release."""
        self._say(GOODBYE)


class Desk:
    """Root's side: who waits for tasks, who has been released, who is gone. `say` sends a message to a worker."""

    def __init__(
        self, workers: Collection[int], source: Source, pause: Callable[[], bool], say: Callable[[bytes, int], None]
    ) -> None:  # fmt: skip
        self._source = source
        self._pause = pause
        self._say = say
        self._waiting: set[int] = set()
        self._unreleased = set(workers)
        self._working = set(workers)
        self._draining = False

    @property
    def empty(self) -> bool:
        """Every worker has said goodbye, or died."""
        return not self._working

    @property
    def closing(self) -> bool:
        """Nothing new is begun any more."""
        return self._draining or self._pause()

    def drain(self) -> None:
        """Release every worker as it asks."""
        self._draining = True

    def hear(self, rank: int, message: bytes) -> None:
        """Take in one message of a worker."""
        if message.startswith(REPORT):
            self._source.report(rank, message[1:])
        elif message == GOODBYE:
            self._working.discard(rank)
        elif message in (ASK, LEAVE):
            self._waiting.add(rank)
        if message == LEAVE:
            self._source.lost(rank)
            self.drain()

    def answer(self) -> None:
        """Answer whoever can be given work or released."""
        for rank in sorted(self._waiting & self._unreleased):
            tasks = [] if self.closing else self._source.give(rank)
            if tasks or self._source.finished or self.closing:
                self._say(msgspec.msgpack.encode(tasks), rank)
                self._waiting.discard(rank)
            if not tasks and (self._source.finished or self.closing):
                self._unreleased.discard(rank)

    def bury(self, dead: Collection[int]) -> None:
        """These ranks have died: what those of them held that were still at work is open again."""
        for rank in sorted(self._working.intersection(dead)):
            self._working.discard(rank)
            self._unreleased.discard(rank)
            self._source.lost(rank, died=True)
