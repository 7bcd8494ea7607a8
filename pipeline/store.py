"""Files that are whole or absent, and the journal, which is the truth of a run.

A journal line is compact JSON, a TAB, the JSON's CRC-32 in hex, a newline. A torn or damaged line is passed over. Each rank
appends to its own file in its attempt's folder: `journal/0001/rank-00000.jsonl`, below `parts/NAME/` where it does a part. Of
several records of one study the last
wins, in the order of attempts, but a transient failure never over a lasting record; a compacted journal stands in for the
attempts that it merged.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pipeline.errors import TRANSIENT, ConfigurationError, PipelineError, StorageError
from pipeline.records import Event, StudyResult
from pipeline.stall import moved

Record = TypeVar("Record")
RACES = 10


@dataclass(frozen=True, slots=True)
class Found:
    """What indexing found outside any study: all files by number, and the excluded ones by reason."""

    n_files: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One journal record: `result` for a study, or `found` for the archive as a whole.

    `input` is the digest of the study's manifest entry, `tries` counts transient failures; `seconds` a stage and `ended` (Unix
    time) serve the report and never reach the tables.
    """

    result: StudyResult | None = None
    found: Found | None = None
    input: str = ""
    tries: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies, and what a resume must know of it."""

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


def storage_error(error: OSError, path: Path) -> PipelineError:
    """What an OSError of the run's own folder means to who runs it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left for {path}: free some and start the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return ConfigurationError(f"cannot write {path}: {error.strerror}; choose another --out")
    return StorageError(f"writing {path} failed: {error.strerror}; start the same command again when the storage is well")


def write_whole(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o644) -> None:
    """Write `path` wholly or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Journal:
    """One rank's append-only journal of one attempt."""

    def __init__(self, path: Path, fsync_every_s: float = 0.0) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
        except OSError as error:
            raise storage_error(error, path) from error
        self._path, self._fsync_every_s, self._synced = path, fsync_every_s, time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, line: Line) -> None:
        """Write one record; on return it is on the disk (unless fsync_every_s allows a delay)."""
        try:
            self._file.write(encode(line))
            self._file.flush()
            if time.monotonic() - self._synced >= self._fsync_every_s:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise storage_error(error, self._path) from error

    def close(self) -> None:
        """Sync and close."""
        os.fsync(self._file.fileno())
        self._file.close()


def encode(line: Line) -> bytes:
    """One journal line."""
    text = msgspec.json.encode(line)
    return b"%s\t%08x\n" % (text, zlib.crc32(text))


class GlanceResult(msgspec.Struct):
    """What a resume must know of a study's result."""

    study_key: str
    status: str
    reason: str = ""


class Glance(msgspec.Struct):
    """A journal line of which only the head is decoded: a journal of 100,000 studies is read in seconds."""

    result: GlanceResult | None = None
    input: str = ""
    tries: int = 0
    ended: float = 0.0
    seconds: dict[str, float] = {}


_line = msgspec.json.Decoder(Line)
_glance = msgspec.json.Decoder(Glance)


def decode(raw: bytes) -> Line | None:
    """The record of one journal line, or None where it is torn or damaged."""
    return _decoded(raw, _line)


def _decoded(raw: bytes, decoder: msgspec.json.Decoder[Record]) -> Record | None:
    moved()
    text, _, crc = raw.rstrip(b"\n").rpartition(b"\t")
    if not raw.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        return None


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """(offset, record) of every sound line of a journal."""
    return _records(path, _line)


def _records(path: Path, decoder: msgspec.json.Decoder[Record]) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as file:
        offset = 0
        for raw in file:
            line = _decoded(raw, decoder)
            if line is not None:
                yield offset, line
            offset += len(raw)


def journal_files(run: Path) -> list[Path]:
    """All journals of a run and of its parts, oldest attempt first, then by rank."""
    found = chain(run.glob("journal/*/*.jsonl"), run.glob("parts/*/journal/*/*.jsonl"))
    return sorted(found, key=lambda path: (path.parent.name, path.name, str(path)))


def last_places(run: Path) -> dict[str, Place]:
    """Where the last record of every study lies, and of the archive's findings (under the empty key)."""
    for _ in range(RACES):
        try:
            return _last_places(run)
        except FileNotFoundError:  # another part has just merged its journals: what they held is in its new one
            continue
    raise StorageError(f"the journals of {run} vanish while they are read: is anybody deleting them?")


def _last_places(run: Path) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for path in journal_files(run):
        for offset, line in _records(path, _glance):
            place = _place(path, offset, line)
            known = places.get(place.key)
            if known is None or not _outweighs(known, place):
                places[place.key] = place
    return places


def _outweighs(known: Place, later: Place) -> bool:
    """A transient failure never replaces a lasting record of the same input, whichever rank's journal is read first."""
    if known.input != later.input or not later.transient:
        return False
    return not known.transient or known.tries > later.tries


def _place(path: Path, offset: int, line: Glance) -> Place:
    if line.result is None:
        return Place(path, offset, "found", "")
    transient = line.result.status == "FAILED" and line.result.reason in TRANSIENT
    result = line.result
    return Place(
        path,
        offset,
        "study",
        result.study_key,
        result.status,
        transient,
        line.tries,
        line.input,
        line.ended,
        seconds=sum(line.seconds.values()),
        reason=result.reason,
    )


def next_attempt(run: Path) -> int:
    """The number of the attempt that begins now, from 1; parts count on together."""
    folders = chain(run.glob("journal/[0-9]*"), run.glob("parts/*/journal/[0-9]*"))
    return max((int(folder.name) for folder in folders), default=0) + 1


def compact(run: Path) -> dict[str, Place]:
    """Merge all attempts into one journal named for the newest, then drop the old; a kill at any moment loses nothing."""
    old = sorted((run / "journal").glob("[0-9]*"))
    if len(old) <= 1:
        return last_places(run)
    merged = (raw(place) for _, place in sorted(last_places(run).items()))
    write_whole(old[-1] / "zz-compacted.jsonl", merged)  # sorts last: its records win over those it merged
    for folder in old[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
    return last_places(run)


def raw(place: Place) -> bytes:
    """The journal line at `place`."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return file.readline()
