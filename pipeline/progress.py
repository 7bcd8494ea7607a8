"""How far a run is: a bar on a terminal, a rate-limited log line elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Counts finished studies; a context of root's only."""

    def __init__(self, total: int, *, every_s: float = 30.0) -> None:
        self._total, self._every_s = total, every_s
        self._n = self._n_failed = 0
        self._begun = self._said = time.monotonic()
        self._bar = tqdm(total=total, unit="study", disable=not sys.stderr.isatty())

    def step(self, *, failed: bool) -> None:
        """One more study is finished."""
        self._n += 1
        self._n_failed += failed
        self._bar.update()
        self._bar.set_postfix(failed=self._n_failed, refresh=False)
        if time.monotonic() - self._said >= self._every_s:
            self._say()

    def close(self) -> None:
        """The last word."""
        self._bar.close()
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = self._n / max(1e-9, self._said - self._begun)
        left_s = (self._total - self._n) / rate if rate else 0.0
        log.info(
            "%d of %d studies, %.2f studies/s, %.0f s left, %d failed",
            self._n,
            self._total,
            rate,
            left_s,
            self._n_failed,
        )
