"""SIMULATED strong scaling of the deal to many thousand ranks: the shipped state machine, a modelled network, measured times.

Nothing here ran on a big machine. An event simulator drives the `Deal` that root uses, with the protocol of `ranks.World` (a
worker asks before it begins the last study it holds, and reports each). Modelled: one-way latency, and root's time for a study
dealt and reported, which is measured on this machine with the shipped `StudySource`. Study times are drawn from the journals of
a measured run, cost and seconds together, with a log-normal spread that the cost does not know of.

    python benchmarks/simulate.py RUN [--studies 1000000] [--plot docs/cluster-scaling.png]
"""

from __future__ import annotations

import argparse
import heapq
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.config import RunConfig
from pipeline.records import Series, SliceSource, Study
from pipeline.run.deal import Deal
from pipeline.run.manifest import Heading, Manifest, read_manifest, write_manifest
from pipeline.run.open_studies import StudySource
from pipeline.run.resume import last_records

LATENCY_S = 5e-6
SPREAD = 0.5
"""Sigma of the logarithm of what a study takes beyond what its cost tells: nine of ten lie within a factor of 2.3."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One simulated run."""

    n_ranks: int
    efficiency: float
    static: float
    root_busy: float


def measured(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """(cost, seconds) of every timed study of a run."""
    manifest = read_manifest(run / "private")
    cost = {entry.study_key: entry.cost for entry in manifest.entries}
    pairs = [(cost[key], record.seconds) for key, record in last_records(run).items() if key in cost and record.seconds > 0]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


def drawn(run: Path, n: int, seed: int, mean_s: float | None) -> tuple[np.ndarray, np.ndarray]:
    """(cost, seconds) of `n` studies like those measured; scaled to a mean of `mean_s` where it is given."""
    draw = np.random.default_rng(seed)
    cost, seconds = measured(run)
    picked = draw.integers(0, len(cost), n)
    taken = seconds[picked] * np.exp(draw.normal(0, SPREAD, n) - SPREAD**2 / 2)
    return cost[picked] * draw.uniform(0.9, 1.1, n), taken * (mean_s / taken.mean() if mean_s else 1.0)


ASK, ANSWER = -1, -2
"""Kinds of events; any other is the number of a study that a rank reports."""


class Machine:
    """`n_ranks` ranks, of which rank 0 only deals."""

    def __init__(self, cost: np.ndarray, seconds: np.ndarray, n_ranks: int, service_s: float) -> None:
        self._deal = Deal(enumerate(cost.tolist()), size=n_ranks)
        self._seconds, self._service_s = seconds.tolist(), service_s
        self._held: list[list[int]] = [[] for _ in range(n_ranks)]
        self._busy, self._asked = [False] * n_ranks, [True] * n_ranks
        self._answers: dict[int, list[int]] = {}
        self._parked: set[int] = set()
        self._events: list[tuple[float, int, int, int]] = []  # time, serial number, kind, rank
        self._n_events, self._root_free, self.root_busy_s, self.end_s = 0, 0.0, 0.0, 0.0
        for rank in range(1, n_ranks):
            self._post(LATENCY_S, ASK, rank)

    def run(self) -> None:
        """Until all studies are reported."""
        while self._events:
            now, _, kind, rank = heapq.heappop(self._events)
            if kind == ANSWER:
                self._held[rank] += self._answers.pop(rank)
                if not self._busy[rank]:
                    self._begin(now, rank)
                continue
            if kind != ASK:
                self.end_s = max(self.end_s, now)
                self._begin(now, rank)
                now += LATENCY_S
            self._serve(now, kind, rank)

    def _post(self, when: float, kind: int, rank: int) -> None:
        self._n_events += 1
        heapq.heappush(self._events, (when, self._n_events, kind, rank))

    def _begin(self, now: float, rank: int) -> None:
        """The rank takes up the next study it holds, asking for more before the last."""
        self._busy[rank] = bool(self._held[rank])
        if self._held[rank]:
            task = self._held[rank].pop(0)
            if not self._held[rank] and not self._asked[rank]:
                self._asked[rank] = True
                self._post(now + LATENCY_S, ASK, rank)
            self._post(now + self._seconds[task], task, rank)

    def _serve(self, now: float, kind: int, rank: int) -> None:
        """Root takes in a request or a report, one after the other, and answers."""
        self._root_free = max(self._root_free, now) + self._service_s / 2
        self.root_busy_s += self._service_s / 2
        if kind != ASK:
            self._deal.done(rank, kind)
        if kind == ASK or rank in self._parked:  # near the end a rank that holds a study waits until it has reported it
            self._parked.discard(rank)
            if given := self._deal.give(rank):
                self._asked[rank], self._answers[rank] = False, given
                self._post(self._root_free + LATENCY_S, ANSWER, rank)
            else:
                self._parked.add(rank)


def static_makespan(seconds: np.ndarray, n_ranks: int, seed: int) -> float:
    """A fixed, equal number of studies a rank, drawn at random as by a hash of the key."""
    shuffled = np.random.default_rng(seed).permutation(seconds)
    return float(max(part.sum() for part in np.array_split(shuffled, n_ranks)))


def service(n: int = 20000) -> float:
    """Measured seconds of root for one study dealt and reported: the shipped source, a manifest on disk, 15 slices a study."""
    slices = tuple(SliceSource(f"folder/series/slice{z:04d}.dcm", float(z), 1000, 524288) for z in range(15))
    series = Series("k", "1.2.3", 0, slices, (0.7, 0.7))
    with tempfile.TemporaryDirectory() as folder:
        studies = (Study(f"S{n:025d}", "P", f"1.2.{n}", f"{n}", (series,), cost=float(n % 97)) for n in range(n))
        write_manifest(Path(folder), Heading("/a", "k", "s", 0), studies)
        manifest: Manifest = read_manifest(Path(folder))
        source = StudySource(manifest, {}, 8000, RunConfig())
        begun = time.process_time()
        done = 0
        while not source.finished:
            for task in source.give(1 + done % 7999):
                key = msgspec.json.decode(task)["study"]["study_key"]
                source.report(1 + done % 7999, msgspec.json.encode([key, "OK", "", 0, False, 2.0]))
                done += 1
        return (time.process_time() - begun) / done


def scale(run: Path, n: int, ranks: list[int], service_s: float, mean_s: float | None) -> list[Outcome]:
    """Every number of ranks in turn."""
    cost, seconds = drawn(run, n, 0, mean_s)
    outcomes = []
    for n_ranks in ranks:
        machine = Machine(cost, seconds, n_ranks, service_s)
        machine.run()
        ideal, static = float(seconds.sum()) / n_ranks, static_makespan(seconds, n_ranks, 1)
        outcomes.append(Outcome(n_ranks, ideal / machine.end_s, ideal / static, machine.root_busy_s / machine.end_s))
        print(outcomes[-1], flush=True)
    return outcomes


def plot(outcomes: list[Outcome], path: Path, title: str) -> None:
    """Efficiency by ranks, dealt and static, and how busy root is."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    ranks = [outcome.n_ranks for outcome in outcomes]
    for name, style, label in (
        ("efficiency", "o-", "dealt by the shipped state machine"),
        ("static", "s--", "static shares, random"),
        ("root_busy", "^:", "share of the time that root is busy"),
    ):
        axes.plot(ranks, [100 * getattr(outcome, name) for outcome in outcomes], style, label=label)
    axes.axhline(90, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="ranks (root only deals)", ylabel="%", ylim=(0, 103))
    axes.set_xticks(ranks, [f"{n:,}" for n in ranks])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower left", fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Simulate, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run whose studies were timed")
    parser.add_argument("--studies", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000, 16000])
    parser.add_argument("--mean", type=float, help="scale the study times to this mean, seconds")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    service_s = service()
    print(f"root's time for a study dealt and reported, measured here: {1e6 * service_s:.0f} us")
    outcomes = scale(options.run, options.studies, options.ranks, service_s, options.mean)
    if options.plot:
        mean = f"{options.mean:.1f} s" if options.mean else "as measured"
        title = f"SIMULATED strong scaling, {options.studies:,} studies, mean {mean}; nothing of this ran on a big machine"
        plot(sorted(outcomes, key=lambda outcome: outcome.n_ranks), options.plot, title)


if __name__ == "__main__":
    main()
