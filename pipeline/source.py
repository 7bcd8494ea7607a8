"""Root's side of the deal: the studies of the manifest that still need a record."""

from __future__ import annotations

import msgspec

from pipeline.aggregate import excluded_result
from pipeline.config import RunConfig
from pipeline.deal import Deal
from pipeline.manifest import Manifest
from pipeline.progress import Progress
from pipeline.records import DealtStudy, Study
from pipeline.store import Found, Journal, Line, Place


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a rank says of a study that it has journalled."""

    study_key: str
    status: str
    reason: str
    tries: int
    transient: bool


class StudySource:
    """Deals open studies, dearest first; a study that failed for a passing reason is dealt again, last."""

    def __init__(self, manifest: Manifest, done: dict[str, Place], size: int, config: RunConfig) -> None:
        self._manifest, self._config = manifest, config
        self._number = {entry.study_key: n for n, entry in enumerate(manifest.entries)}
        open_ = [n for n, entry in enumerate(manifest.entries) if entry.status == "READY" and not self._settled(n, done)]
        self._tries = {n: place.tries for n in open_ if (place := done.get(manifest.entries[n].study_key))}
        self._deal = Deal([(n, manifest.entries[n].cost) for n in open_], size=size)
        self._n_internal = self._n_finished = 0
        self.progress = Progress(len(open_), len(manifest.entries), every_s=config.progress_every_s)

    def give(self, rank: int) -> list[bytes]:
        """The next studies of `rank`."""
        return [self._task(number) for number in self._deal.give(rank)]

    def report(self, rank: int, report: bytes) -> None:
        """`rank` has journalled one study."""
        told = msgspec.json.decode(report, type=Report)
        number = self._number[told.study_key]
        self._deal.done(rank, number)
        if told.transient and told.tries < self._config.max_attempts:
            self._tries[number] = told.tries
            self._deal.add(number, 0.0)
            return
        self._n_finished += 1
        self._n_internal += told.reason == "INTERNAL_ERROR"
        self.progress.step(failed=told.status == "FAILED")

    def lost(self, rank: int) -> None:
        """What `rank` held is open again."""
        self._deal.lost(rank)

    @property
    def finished(self) -> bool:
        """Every study has its record."""
        return self._deal.finished

    @property
    def broken(self) -> bool:
        """Too many studies end in INTERNAL_ERROR: the program is wrong, not the archive."""
        return self._n_internal > max(self._config.max_internal_errors, self._n_finished // 100)

    def _task(self, number: int) -> bytes:
        study = self._manifest.study(number)
        return msgspec.json.encode(DealtStudy(study, self._manifest.entries[number].digest, self._tries.get(number, 0)))

    def _settled(self, number: int, done: dict[str, Place]) -> bool:
        return is_settled(self._manifest, number, done, self._config.max_attempts)


def is_settled(manifest: Manifest, number: int, done: dict[str, Place], max_attempts: int) -> bool:
    """Whether a study has a lasting record of its present input."""
    entry = manifest.entries[number]
    place = done.get(entry.study_key)
    return place is not None and place.input == entry.digest and not (place.transient and place.tries < max_attempts)


def journal_findings(journal: Journal, manifest: Manifest, done: dict[str, Place]) -> None:
    """Record what indexing settled: the archive's findings, and the studies in which there is nothing to screen."""
    journal.append(Line(found=Found(manifest.heading.n_files, manifest.heading.events)))
    for number, entry in enumerate(manifest.entries):
        if entry.status != "READY" and not is_settled(manifest, number, done, 1):
            study: Study = manifest.study(number)
            journal.append(Line(result=excluded_result(study), input=entry.digest))
