"""How far a run is, read from its folder while it works or after it ended."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.journal import LastRecord
from pipeline.run.lock import holders
from pipeline.run.manifest import read_manifest
from pipeline.run.paths import PRIVATE
from pipeline.run.resume import next_attempt, noted_records

RECENT = 200


@dataclass(frozen=True, slots=True)
class Status:
    """Counts of a run; `rate_per_s` over the newest records, 0 where there are too few."""

    n_studies: int
    n_done: int
    by_status: dict[str, int]
    rate_per_s: float
    attempt: int
    holder: str

    @property
    def n_open(self) -> int:
        """Studies without a record."""
        return self.n_studies - self.n_done


def read_status(run: Path) -> Status:
    """The state of the run at `run`. Raises ConfigurationError where nothing was indexed there."""
    manifest = read_manifest(run / PRIVATE)
    wanted = {entry.study_key for entry in manifest.entries}
    done = {key: record for key, record in noted_records(run).items() if key in wanted}
    by_status = Counter(record.status for record in done.values())
    attempt = next_attempt(run) - 1
    return Status(
        len(wanted), len(done), dict(sorted(by_status.items())), _rate(list(done.values())), attempt, "; ".join(holders(run))
    )


def _rate(records: list[LastRecord]) -> float:
    """Studies a second over the newest records of the newest attempt."""
    paths = {record.path for record in records}
    newest = max((path.parent for path in paths), default=None)
    latest = {path for path in paths if path.parent == newest}
    ended = heapq.nlargest(RECENT, (record.ended for record in records if record.ended and record.path in latest))
    return (len(ended) - 1) / (ended[0] - ended[-1]) if len(ended) > 1 and ended[0] > ended[-1] else 0.0
