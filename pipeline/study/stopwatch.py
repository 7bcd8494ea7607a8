"""How long each stage of one study takes; whoever waits for it hears that it moves on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.mpi.stall import moved


class Stopwatch:
    """The `seconds` of each stage by its name; `begins` is told the name as a stage begins, `tick` is called as it ends."""

    def __init__(self, begins: Callable[[str], None] = lambda _: None, tick: Callable[[], None] = lambda: None) -> None:
        self.seconds: dict[str, float] = {}
        self._begins = begins
        self._tick = tick

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what is done inside to the stage's seconds; a stage that fails adds none."""
        self._begins(name)
        begun = time.monotonic()
        yield
        moved()
        self._tick()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
