"""What a run that is started again goes on from: the rule, whole.

Of several records of one study the last wins, in the order of attempts, but a transient failure never over a lasting record of
the same input. A study is settled, and left alone, where that record is of its present input and lasting, or was tried often
enough. Before a run goes on, the attempts' journals are merged into one, which stands in for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pipeline.errors import LOST_LIMIT, Reason, StorageError
from pipeline.files import write_whole
from pipeline.records import StudyResult
from pipeline.run.journal import (
    GLANCES,
    LastRecord,
    Note,
    decode,
    decoded,
    journal_files,
    note_of,
    notes_of,
    read_notes,
    read_raw,
    record_at,
    take_notes,
)
from pipeline.run.manifest import Manifest
from pipeline.run.paths import attempts, part_homes

RACES = 10
"""So often journals may vanish while they are read, since another part merges its own."""


def is_settled(manifest: Manifest, number: int, done: dict[str, LastRecord], max_attempts: int) -> bool:
    """Whether a study has a lasting record of its present input."""
    entry = manifest.entries[number]
    record = done.get(entry.study_key)
    if record is None or record.input != entry.digest:
        return False
    return not (record.transient and record.tries < (LOST_LIMIT if record.reason == Reason.WORKER_LOST else max_attempts))


def last_records(run: Path) -> dict[str, LastRecord]:
    """Where the last record of every study lies, and of the archive's findings (under the empty key); every byte is checked."""
    return _undisturbed(run, read_notes)


def noted_records(run: Path) -> dict[str, LastRecord]:
    """The same, by the journals' notes: for who wants to know and not to go on from it."""
    return _undisturbed(run, take_notes)


def _undisturbed(run: Path, notes: Callable[[Path], Iterator[Note]]) -> dict[str, LastRecord]:
    for _ in range(RACES):
        try:
            return _last_records(run, notes)
        except FileNotFoundError:  # another part has just merged its journals: what they held is in its new one
            continue
    raise StorageError(f"the journals of {run} vanish while they are read: is anybody deleting them?")


def _last_records(run: Path, notes: Callable[[Path], Iterator[Note]]) -> dict[str, LastRecord]:
    records: dict[str, LastRecord] = {}
    for path in journal_files(run):
        for note in notes(path):
            record = record_at(path, note)
            known = records.get(record.key)
            if known is None or not _outweighs(known, record):
                records[record.key] = record
    return records


def _outweighs(known: LastRecord, later: LastRecord) -> bool:
    """A transient failure never replaces a lasting record of the same input, whichever rank's journal is read first."""
    if known.input != later.input or not later.transient:
        return False
    return not known.transient or known.tries > later.tries


def next_attempt(run: Path) -> int:
    """The number of the attempt that begins now, from 1; parts count on together."""
    folders = [folder for home in (run, *part_homes(run)) for folder in attempts(home)]
    return max((int(folder.name) for folder in folders), default=0) + 1


def compact(run: Path) -> dict[str, LastRecord]:
    """Merge all attempts into one journal named for the newest, then drop the old; a kill at any moment loses nothing.

    The last records; the journals are read once, and where there is something to merge the last records again.
    """
    old = attempts(run)
    records = last_records(run)
    if len(old) <= 1:
        return records
    merged = _Merged(old[-1] / "zz-compacted.jsonl")  # sorts last: its records win over those it merged
    own = {path for folder in old for path in folder.glob("*.jsonl")}  # not those of parts, which merge their own
    notes_of(merged.path).unlink(missing_ok=True)
    write_whole(merged.path, merged.lines([records[key] for key in sorted(records) if records[key].path in own]))
    write_whole(notes_of(merged.path), bytes(merged.notes))
    for folder in old[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
    return records | merged.records


class _Merged:
    """A journal while it is made of others' lines, and what is to be noted of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes = bytearray()
        self.records: dict[str, LastRecord] = {}

    def lines(self, records: Sequence[LastRecord]) -> Iterator[bytes]:
        offset = 0
        for line in read_raw(records):
            glance = decoded(line, GLANCES)
            if glance is None:
                raise StorageError(f"a journal of {self.path.parent.parent} changed while it was read: is it still written to?")
            note = note_of(glance, offset, len(line))
            self.notes += msgspec.json.encode(note) + b"\n"
            self.records[note.key] = record_at(self.path, note)
            offset += len(line)
            yield line


def results_of(folder: Path) -> tuple[StudyResult, ...]:
    """The results that the journals of the run at `folder` hold, in the order of the studies' keys."""
    records = {key: record for key, record in last_records(folder).items() if key}
    lines = [decode(raw) for raw in read_raw([records[key] for key in sorted(records)])]
    return tuple(line.result for line in lines if line is not None and line.result is not None)
