"""Root's side of the deal: the studies of the manifest that still need a record."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from pipeline.config import RunConfig
from pipeline.errors import Reason
from pipeline.records import Found, Line, Study
from pipeline.run.deal import Deal
from pipeline.run.journal import Journal, LastRecord
from pipeline.run.manifest import Manifest
from pipeline.run.pace import RECENT, Pace
from pipeline.run.progress import Progress
from pipeline.run.resume import is_settled
from pipeline.study.pool import excluded_result


class StudyReport(msgspec.Struct, frozen=True, array_like=True):
    """What a rank says of a study that it has journalled."""

    study_key: str
    status: str
    reason: str
    tries: int
    transient: bool
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """Which studies this job takes: all, or every `of`-th in the order of cost; and until when."""

    number: int = 1
    of: int = 1
    pace: Pace = field(default_factory=Pace)
    retry_lost: bool = False

    def numbers(self, manifest: Manifest) -> list[int]:
        """The places of its studies in the manifest; the same whenever and wherever it is asked."""
        by_cost = sorted(range(len(manifest.entries)), key=lambda n: (-manifest.entries[n].cost, n))
        return sorted(by_cost[self.number - 1 :: self.of])


class StudySource:
    """Deals open studies, costliest first; a study that failed for a passing reason is dealt again, last."""

    def __init__(
        self, manifest: Manifest, done: dict[str, LastRecord], size: int, config: RunConfig, share: Share | None = None,
        journalled: Callable[[], dict[str, LastRecord]] = dict,
    ) -> None:  # fmt: skip
        """`done` is what the journals hold now; `journalled` reads them anew."""
        self._manifest = manifest
        self._config = config
        self._share = share or Share()
        self._before = done
        self._journalled = journalled
        self._pace = self._share.pace
        self._had_s = self._pace.left_s
        self._number = {entry.study_key: n for n, entry in enumerate(manifest.entries)}
        ready = [n for n in self._share.numbers(manifest) if manifest.entries[n].status == "READY"]
        open_ = [n for n in ready if not self._settled(n, done)]
        self._tries = {n: record.tries for n in open_ if (record := done.get(manifest.entries[n].study_key))}
        timed = (record for record in done.values() if record.seconds > 0 and record.key in self._number)
        for record in reversed(heapq.nlargest(RECENT, timed, key=lambda record: record.ended)):
            self._pace.measured(manifest.entries[self._number[record.key]].cost, record.seconds)
        self._deal = Deal([(n, manifest.entries[n].cost) for n in open_], size=size)
        self._n_internal = self._n_finished = self._n_reports = 0
        self.progress = Progress(len(open_), len(manifest.entries), every_s=config.progress_every_s)

    def give(self, rank: int) -> list[bytes]:
        """The next studies of `rank`."""
        n_held = len(self._deal.held_by(rank))
        if n_held and self._pace.costliest(n_held) <= 0:
            return []  # not after what it holds; somebody free may still take it
        return [self._task(number) for number in self._deal.give(rank, self._pace.costliest())]

    def report(self, rank: int, report: bytes) -> None:
        """`rank` has journalled one study."""
        told = msgspec.json.decode(report, type=StudyReport)
        number = self._number[told.study_key]
        self._deal.done(rank, number)
        self._n_reports += 1
        self._pace.measured(self._manifest.entries[number].cost, told.seconds)
        if told.transient and told.tries < self._config.max_attempts:
            self._tries[number] = told.tries
            self._deal.add(number, 0.0)
            return
        self._n_finished += 1
        self._n_internal += told.reason == "INTERNAL_ERROR"
        self.progress.step(failed=told.status == "FAILED")

    def lost(self, rank: int, *, died: bool = False) -> None:
        """What `rank` held is open again, but for what it, or its watcher, journalled before it died."""
        held = self._deal.held_by(rank) if died else ()
        done = self._journalled() if held else {}
        for number in held:
            key = self._manifest.entries[number].study_key
            record = done.get(key)
            if record is None or record == self._before.get(key):
                continue
            self._tries[number] = record.tries
            if is_settled(self._manifest, number, done, self._config.max_attempts):
                self._deal.done(rank, number)
                self._n_finished += 1
                self.progress.step(failed=record.status == "FAILED")
        self._deal.lost(rank)

    @property
    def before(self) -> dict[str, LastRecord]:
        """What the journals held when it began."""
        return self._before

    @property
    def moved(self) -> bool:
        """Whether any study has been recorded since."""
        return bool(self._n_reports or self._n_finished)

    @property
    def finished(self) -> bool:
        """Every study has its record."""
        return self._deal.finished

    @property
    def broken(self) -> bool:
        """Too many studies end in INTERNAL_ERROR: the program is wrong, not the archive."""
        return self._n_internal > max(self._config.max_internal_errors, self._n_finished // 100)

    @property
    def out_of_time(self) -> bool:
        """Studies are left, but none that can end before the allocation does."""
        return bool(self._deal.n_open or self._deal.n_aside) and (not self._deal.n_open or self._pace.costliest() <= 0)

    @property
    def hopeless_s(self) -> float:
        """Seconds that the middle study takes, where nothing was finished and not even it would have ended in time; else 0."""
        hopeless = self.out_of_time and not self._n_finished and self._pace.middle_s > self._had_s
        return self._pace.middle_s if hopeless else 0.0

    def n_open_elsewhere(self, done: dict[str, LastRecord]) -> int:
        """Studies of the whole run that have no lasting record yet."""
        return sum(not self._settled(n, done) for n in range(len(self._manifest.entries)))

    def _task(self, number: int) -> bytes:
        """A `DealtStudy`, its study passed on as it stands: root deals thousands a second."""
        study = msgspec.Raw(self._manifest.raw(number))
        dealt = {"study": study, "input": self._manifest.entries[number].digest, "tries": self._tries.get(number, 0)}
        return msgspec.json.encode(dealt)

    def _settled(self, number: int, done: dict[str, LastRecord]) -> bool:
        record = done.get(self._manifest.entries[number].study_key)
        if self._share.retry_lost and record is not None and record.reason == Reason.WORKER_LOST:
            return False
        return is_settled(self._manifest, number, done, self._config.max_attempts)


def journal_findings(journal: Journal, manifest: Manifest, done: dict[str, LastRecord], numbers: list[int]) -> None:
    """Record what indexing settled: the archive's findings, and those of `numbers` in which there is nothing to screen."""
    journal.append(Line(found=Found(manifest.heading.n_files, manifest.heading.events)))
    for number in numbers:
        entry = manifest.entries[number]
        if entry.status != "READY" and not is_settled(manifest, number, done, 1):
            study: Study = manifest.study(number)
            journal.append(Line(result=excluded_result(study), input=entry.digest))
