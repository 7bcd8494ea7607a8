"""Which rank does which task: a pure state machine, so that a simulator can run the very code that is shipped.

Tasks are numbered 0..n-1 and given out costliest first. A rank that holds fewer than `ahead` tasks may have more; near the end
(fewer than 3 open tasks a rank) nobody holds a task ahead of need. Every task is open, held by one rank, set aside as too
costly for the time left, or done.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable


class Deal:
    """The deal of `tasks` (pairs of number and cost); knows who holds what."""

    def __init__(self, tasks: Iterable[tuple[int, float]] = (), *, size: int = 1, ahead: int = 2) -> None:
        self._open: list[tuple[float, int]] = []
        self._cost: dict[int, float] = {}
        self._held: dict[int, set[int]] = {}
        self._aside: list[int] = []
        self._size = size
        self._ahead = ahead
        for task, cost in tasks:
            self.add(task, cost)

    def add(self, task: int, cost: float) -> None:
        """Open one more task; of equal costs the lower number goes first."""
        self._cost[task] = cost
        heapq.heappush(self._open, (-cost, task))

    def give(self, rank: int, costliest: float = math.inf) -> list[int]:
        """Tasks that `rank` shall do next, now held by it: none when it has enough or nothing is open.

        A task costlier than `costliest` is set aside for good.
        """
        mine = self._held.setdefault(rank, set())
        room = max(0, self.ahead - len(mine))
        while room and self._open and -self._open[0][0] > costliest:
            self._aside.append(heapq.heappop(self._open)[1])
        given = [heapq.heappop(self._open)[1] for _ in range(min(room, len(self._open)))]
        mine.update(given)
        return given

    def done(self, rank: int, task: int) -> None:
        """`rank` has finished `task`."""
        self._held.get(rank, set()).discard(task)
        self._cost.pop(task, None)

    def lost(self, rank: int) -> list[int]:
        """`rank` is gone: what it held is open again, and returned."""
        tasks = sorted(self._held.pop(rank, set()))
        for task in tasks:
            heapq.heappush(self._open, (-self._cost[task], task))
        return tasks

    def held_by(self, rank: int) -> frozenset[int]:
        """The tasks that `rank` holds."""
        return frozenset(self._held.get(rank, ()))

    @property
    def ahead(self) -> int:
        """How many tasks a rank may hold now."""
        return self._ahead if len(self._open) >= 3 * self._size else 1

    @property
    def n_aside(self) -> int:
        """Tasks that were too costly for the time left."""
        return len(self._aside)

    @property
    def n_open(self) -> int:
        """Tasks that nobody holds yet."""
        return len(self._open)

    @property
    def finished(self) -> bool:
        """Nothing open, nothing set aside, nothing held."""
        return not self._open and not self._aside and not any(self._held.values())
