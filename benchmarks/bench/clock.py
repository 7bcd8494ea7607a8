"""Seconds on the clock and of the processor, of works that take turns: a busy moment of the machine falls on all of them."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

from pipeline.study.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds on the clock, and of the processor."""

    clock_s: float
    cpu_s: float


def spent(work: Callable[[], Any]) -> Spent:
    """What one call takes in this process."""
    clock, cpu = perf_counter(), process_time()
    work()
    return Spent(perf_counter() - clock, process_time() - cpu)


def spent_by_children(work: Callable[[], Any]) -> Spent:
    """What the processes take that `work` starts and sees end."""
    clock, cpu = perf_counter(), _children_s()
    work()
    return Spent(perf_counter() - clock, _children_s() - cpu)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_turn(works: Mapping[str, Callable[[], Spent]], repeats: int) -> dict[str, list[Spent]]:
    """Every work `repeats` times, one after the other, round after round."""
    taken: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(work())
    return taken


def middle(taken: Sequence[Spent]) -> Spent:
    """The median of each."""
    return Spent(statistics.median(one.clock_s for one in taken), statistics.median(one.cpu_s for one in taken))


class ProcessorWatch(Stopwatch):
    """A stopwatch of the processor's seconds in this process: what others do on the machine moves them less."""

    @contextmanager
    def stage(self, name: str):
        """Add the processor's seconds of what is done inside."""
        before = process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + process_time() - before
