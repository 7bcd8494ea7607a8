"""How long studies take, measured as they end: whether one more can end before the walltime does."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

RECENT = 1000
FEW = 20
SHARE = 0.95
SPARE = 1.25
"""A study may take this much longer than nearly all before it."""


class Pace:
    """Seconds of the latest studies by their cost; `ends` is the Unix time at which the allocation does, None: never."""

    def __init__(self, ends: float | None = None, clock: Callable[[], float] = time.time) -> None:
        self._ends = ends
        self._clock = clock
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._n = 0
        self.study_s = self.middle_s = 0.0
        """What nearly every study so far took at most, and what the middle one took; 0 while nothing is known."""
        self._costliest = 0.0

    def measured(self, cost: float, seconds: float) -> None:
        """One more study has ended."""
        if seconds > 0:
            self._recent.append((cost, seconds))
            self._n += 1
            if self._n <= FEW or self._n % FEW == 0:  # sorting at each of 4,000 requests a second would keep root busy
                self._weigh()

    @property
    def left_s(self) -> float:
        """Seconds until the allocation ends."""
        return math.inf if self._ends is None else self._ends - self._clock()

    def costliest(self, n_before: int = 0) -> float:
        """The cost of the costliest study that still ends in time after `n_before` others: 0 when none does."""
        if self._ends is None or not self._recent:
            return math.inf if self.left_s > 0 else 0.0
        share = self.left_s / (SPARE * self.study_s * (1 + n_before))
        return self._costliest * share if share >= 1 else 0.0

    @property
    def late(self) -> bool:
        """Whether what nearly every study takes is more than the time left."""
        return self.left_s < SPARE * self.study_s

    def _weigh(self) -> None:
        seconds = sorted(spent for _, spent in self._recent)
        self.study_s = seconds[math.ceil(SHARE * len(seconds)) - 1] if len(seconds) >= FEW else seconds[-1]
        self.middle_s = seconds[len(seconds) // 2]
        self._costliest = max(cost for cost, _ in self._recent)
