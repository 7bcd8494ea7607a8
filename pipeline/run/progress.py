"""How far a run is: a bar on a terminal, a rate-limited log line elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tqdm import tqdm

from pipeline.mpi.terminal import bar_options

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Count:
    """How far a run is; failures and the rate are those since it was started last."""

    n_studies: int
    n_done: int
    n_failed: int
    rate_per_s: float


class Progress:
    """Counts finished studies; root's only. `n_open` of `n_studies` are still to do when it begins."""

    def __init__(self, n_open: int, n_studies: int, *, every_s: float = 30.0) -> None:
        self._n_open = n_open
        self._n_studies = n_studies
        self._every_s = every_s
        self._n = self._n_failed = 0
        self._begun = self._reported_s = time.monotonic()
        self._listeners: list[Callable[[Count], None]] = []
        self._bar = tqdm(total=n_studies, initial=n_studies - n_open, unit="study", **bar_options())

    def tell(self, listener: Callable[[Count], None]) -> None:
        """Tell `listener` now, and whenever something is said."""
        self._listeners.append(listener)
        listener(self._count(0.0))

    def step(self, *, failed: bool) -> None:
        """One more study is finished."""
        self._n += 1
        self._n_failed += failed
        self._bar.update()
        self._bar.set_postfix(failed=self._n_failed, refresh=False)
        if time.monotonic() - self._reported_s >= self._every_s:
            self._say()

    def close(self) -> None:
        """Say how it ended."""
        self._bar.close()
        self._say()

    def _say(self) -> None:
        self._reported_s = time.monotonic()
        rate = self._n / max(1e-9, self._reported_s - self._begun)
        left = f"{(self._n_open - self._n) / rate:.0f} s left, " if rate else ""
        count = self._count(rate)
        for listener in self._listeners:
            listener(count)
        log.info(
            "%d of %d studies, %.2f studies/s, %s%d failed so far", count.n_done, self._n_studies, rate, left, self._n_failed
        )

    def _count(self, rate: float) -> Count:
        return Count(self._n_studies, self._n_studies - self._n_open + self._n, self._n_failed, rate)
