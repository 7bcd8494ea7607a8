"""The journal, which is the truth of a run.

A journal line is compact JSON, a TAB, the JSON's CRC-32 in hex, a newline. A torn or damaged line is passed over. Each rank
appends to its own file in its attempt's folder: `journal/0001/rank-00000.jsonl`, below `parts/NAME/` where it does a part.
Which of several records of one study counts, resume.py says.

Beside a journal lie its notes (`rank-00000.notes`): a line a record with what a status or a report must know of it, written
once the record is on the disk. They spare reading gigabytes, and may be missing: what they lack is read from the journal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pipeline.errors import TRANSIENT
from pipeline.files import sealed, storage_error, unsealed
from pipeline.mpi.stall import moved
from pipeline.records import Line
from pipeline.run.paths import attempts, part_homes

Record = TypeVar("Record")
READ_BYTES = 2**20
"""At a time: lines of 20 kB are read three times as fast as by Python's 8 kB."""
MOST_OPEN = 200
"""Journals that a reader of lines keeps open."""
AHEAD = 500
"""Lines that the system is told of before they are read."""


class LastRecord(msgspec.Struct, frozen=True, gc=False):
    """Where a record lies, and what a resume must know of it; a million of them are half a gigabyte."""

    path: Path
    offset: int
    kind: Literal["study", "found"]
    key: str
    status: str = ""
    transient: bool = False
    tries: int = 0
    input: str = ""
    ended: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    length: int = 0


class Note(msgspec.Struct, array_like=True, gc=False):
    """One line of a journal's notes: the head of the record that takes `length` bytes from `offset`; no key: no study's."""

    offset: int
    length: int
    key: str = ""
    status: str = ""
    reason: str = ""
    input: str = ""
    tries: int = 0
    ended: float = 0.0
    seconds: dict[str, float] = {}


class Journal:
    """One rank's append-only journal of one attempt, and its notes."""

    def __init__(self, path: Path, fsync_every_s: float = 0.0) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self._notes = notes_of(path).open("ab")
        except OSError as error:
            raise storage_error(error, path) from error
        self._unsynced: list[bytes] = []
        self._path = path
        self._fsync_every_s = fsync_every_s
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, line: Line) -> None:
        """Write one record; on return it is on the disk (unless fsync_every_s allows a delay)."""
        data = encode(line)
        try:
            self._unsynced.append(msgspec.json.encode(note_of(line, self._file.tell(), len(data))) + b"\n")
            self._file.write(data)
            self._file.flush()
            if time.monotonic() - self._synced >= self._fsync_every_s:
                self._sync()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def close(self) -> None:
        """Sync and close. What could not be written before is tried again here: that fails too where there is no room."""
        try:
            with self._file, self._notes:
                self._sync()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def _sync(self) -> None:
        """Records first: a note is of a record that no power cut can take back."""
        os.fsync(self._file.fileno())
        self._notes.write(b"".join(self._unsynced))
        self._notes.flush()
        self._unsynced.clear()
        self._synced = time.monotonic()


def notes_of(journal: Path) -> Path:
    """Where the notes of a journal lie."""
    return journal.with_suffix(".notes")


def encode(line: Line) -> bytes:
    """One journal line."""
    return sealed(msgspec.json.encode(line))


class GlanceResult(msgspec.Struct, gc=False):
    """What a resume must know of a study's result."""

    study_key: str
    status: str
    reason: str = ""


class Glance(msgspec.Struct, gc=False):
    """A journal line of which only the head is decoded: a journal of 100,000 studies is read in seconds."""

    result: GlanceResult | None = None
    input: str = ""
    tries: int = 0
    ended: float = 0.0
    seconds: dict[str, float] = {}


_line = msgspec.json.Decoder(Line)
GLANCES = msgspec.json.Decoder(Glance)
_noted = msgspec.json.Decoder(Note)


def decode(raw: bytes) -> Line | None:
    """The record of one journal line, or None where it is torn or damaged."""
    return decoded(raw, _line)


def decoded(raw: bytes, decoder: msgspec.json.Decoder[Record]) -> Record | None:
    """The same, as much of it as `decoder` wants."""
    moved()
    text = unsealed(raw)
    if text is None:
        return None
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        return None


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """(offset, record) of every sound line of a journal."""
    return ((offset, line) for offset, _, line in _records(path, _line))


def _records(path: Path, decoder: msgspec.json.Decoder[Record], offset: int = 0) -> Iterator[tuple[int, int, Record]]:
    with path.open("rb", buffering=READ_BYTES) as file:
        file.seek(offset)
        for raw in file:
            line = decoded(raw, decoder)
            if line is not None:
                yield offset, len(raw), line
            offset += len(raw)


def journal_files(run: Path) -> list[Path]:
    """All journals of a run and of its parts, oldest attempt first, then by rank."""
    folders = [folder for home in (run, *part_homes(run)) for folder in attempts(home)]
    found = [path for folder in folders for path in folder.glob("*.jsonl")]
    return sorted(found, key=lambda path: (path.parent.name, path.name, str(path)))


def read_notes(path: Path, offset: int = 0) -> Iterator[Note]:
    """What is to be noted of every sound line of a journal from `offset` on, by reading the journal itself."""
    return (note_of(line, at, length) for at, length, line in _records(path, GLANCES, offset))


def take_notes(path: Path) -> Iterator[Note]:
    """The same by the notes as far as they cover the journal without a gap, the rest by the journal itself."""
    end = 0
    for note in _sound_notes(path):
        if note.offset != end:
            break
        yield note
        end += note.length
    yield from read_notes(path, end)


def _sound_notes(path: Path) -> Iterator[Note]:
    """The notes up to the first that is torn or speaks of more than the journal holds."""
    size = path.stat().st_size
    try:
        with notes_of(path).open("rb") as file:
            for raw in file:
                note = _noted.decode(raw)
                if not raw.endswith(b"\n") or note.length <= 0 or note.offset + note.length > size:
                    return
                yield note
    except (FileNotFoundError, msgspec.DecodeError):
        return


def note_of(line: Line | Glance, offset: int, length: int) -> Note:
    """The note of a record that takes `length` bytes from `offset`."""
    if line.result is None:
        return Note(offset, length)
    head = (line.result.study_key, line.result.status, line.result.reason)
    return Note(offset, length, *head, line.input, line.tries, line.ended, line.seconds)


def record_at(path: Path, note: Note) -> LastRecord:
    """Where the record lies that `note`, of the journal at `path`, is about."""
    return LastRecord(
        path,
        note.offset,
        "study" if note.key else "found",
        note.key,
        sys.intern(note.status),
        note.status == "FAILED" and note.reason in TRANSIENT,
        note.tries,
        note.input,
        note.ended,
        sum(note.seconds.values()),
        sys.intern(note.reason),
        note.length,
    )


def raw(record: LastRecord) -> bytes:
    """The journal line at `record`."""
    return next(read_raw([record]))


def read_raw(records: Sequence[LastRecord]) -> Iterator[bytes]:
    """The journal lines at `records`, in their order; the system is told ahead what it will be asked for."""
    files: dict[Path, int] = {}
    try:
        for start in range(0, len(records), AHEAD):
            batch = records[start : start + AHEAD]
            for record in batch:
                os.posix_fadvise(_opened(files, record.path), record.offset, record.length, os.POSIX_FADV_WILLNEED)
            for record in batch:
                yield os.pread(_opened(files, record.path), record.length, record.offset)
    finally:
        for handle in files.values():
            os.close(handle)


def _opened(files: dict[Path, int], path: Path) -> int:
    """A handle on `path`, of the few that are left open."""
    if path not in files:
        if len(files) >= MOST_OPEN:
            os.close(files.pop(next(iter(files))))
        files[path] = os.open(path, os.O_RDONLY)
    return files[path]
