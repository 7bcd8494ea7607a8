"""What has been read of every file of an archive: one line a file in `private/scan-N.jsonl`, places of lines in memory.

A later scan takes from it what has not changed, and goes on where a killed one stopped. Memory holds 16 bytes a file that an
earlier scan knew and 8 a file of a study, so that root can index millions; headers are read back study by study, and of a
container's line only the members of that study.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from pipeline.archive import FileRecord, FoundFile, picture_folder, volume_name
from pipeline.config import Rule
from pipeline.errors import TRANSIENT, Reason
from pipeline.files import storage_error
from pipeline.records import Event
from pipeline.run.kinds import kind_of

VERSION = 6
"""Counts up when what is read of a file changes: older scans are then not believed."""
NAME = f"scan-{VERSION}.jsonl"
AGAIN = frozenset({*TRANSIENT, Reason.PERMISSION_DENIED, Reason.FILE_VANISHED, Reason.OUT_OF_MEMORY})
"""Reasons that may be gone although the file has not changed."""
FEW = 20
"""Records of a line that are read together; of a longer line each has a place of its own."""


class _Places:
    """Where records lie: whole lines, and records within the lines of containers."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q")  # of a line its place; of a record within a line its place, negative, and its length

    def add(self, place: int, length: int = 0) -> None:
        """A line, or a record of `length` bytes."""
        if length:
            self._numbers.extend((-place, length))
        else:
            self._numbers.append(place)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(place, length); the length of a line is 0."""
        numbers = iter(self._numbers)
        for number in numbers:
            yield (number, 0) if number >= 0 else (-number, next(numbers))


@dataclass(slots=True)
class _Groups:
    """Places of records by what they belong to."""

    studies: dict[str, _Places] = field(default_factory=lambda: defaultdict(_Places))
    pictures: dict[str, _Places] = field(default_factory=lambda: defaultdict(_Places))
    volumes: dict[str, _Places] = field(default_factory=lambda: defaultdict(_Places))
    dicom_folders: set[str] = field(default_factory=set)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    n_files: int = 0


class _Glance(msgspec.Struct, gc=False):
    """The part of a line that says whether its file need not be read again."""

    class Record(msgspec.Struct, gc=False):
        """The reason alone."""

        reason: str = ""

    path: str
    records: tuple[Record, ...] = ()


class _Known:
    """Where the lines of earlier scans lie, by a hash of the file's path."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._places = array("q")
        self._sorted = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, path: str, place: int) -> None:
        self._hashes.append(hash(path))
        self._places.append(place)

    def sort(self) -> None:
        """To be called once, when all is added."""
        hashes = np.array(self._hashes, np.int64)
        places = np.array(self._places, np.int64)
        self._hashes = array("q")
        self._places = array("q")
        order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[order], places[order]

    def find(self, path: str) -> list[int]:
        """Places of the lines that may be this path's, the newest first."""
        hashes, places = self._sorted
        first = np.searchsorted(hashes, hash(path), "left")
        last = np.searchsorted(hashes, hash(path), "right")
        found: list[int] = places[first:last].tolist()
        return found[::-1]


def _name(asked: Sequence[Rule]) -> str:
    """Other rules about descriptions are another reading: a description is not kept, so that it must be read again."""
    digest = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:8] if asked else ""
    return f"scan-{VERSION}-{digest}.jsonl" if asked else NAME


class Catalogue:
    """The scan's file, open; a context manager. A file's line counts once it was `take`n in this scan.

    `asked` are the rules that were answered as its files were read (archive/rules.py).
    """

    def __init__(self, private: Path, asked: Sequence[Rule] = ()) -> None:
        self._path = private / _name(asked)
        self._known = _Known()
        try:
            self._file = self._path.open("a+b")
            self._path.chmod(0o600)
            self._recall()
        except OSError as error:
            raise storage_error(error, private.parent) from error
        self._groups = _Groups()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()  # tries again to write what there was no room for
        except OSError as error:
            raise storage_error(error, self._path.parent.parent) from error

    @property
    def n_files(self) -> int:
        """Files and members of containers taken in so far."""
        return self._groups.n_files

    def recall(self, found: FoundFile) -> bool:
        """Take in what is known of an unchanged file; False where it must be read."""
        for place in self._known.find(found.path):
            line = self._line(place)
            known = _found.decode(line)
            if known.path == found.path:
                same = (known.size, known.mtime_ns) == (found.size, found.mtime_ns)
                if same:
                    self._count(known, place, line)
                return same
        return False

    def add(self, found: FoundFile) -> None:
        """Take in what has just been read of a file. Raises StorageError."""
        try:
            self._file.seek(0, 2)
            place = self._file.tell()
            line = msgspec.json.encode(found) + b"\n"
            self._file.write(line)
        except OSError as error:
            raise storage_error(error, self._path.parent.parent) from error
        self._count(found, place, line)

    def flush(self) -> None:
        """Let what was added survive a kill."""
        try:
            self._file.flush()
        except OSError as error:
            raise storage_error(error, self._path.parent.parent) from error

    def study_uids(self) -> list[str]:
        """Every study met."""
        return list(self._groups.studies)

    def study(self, uid: str) -> list[FileRecord]:
        """The records of all files of a study."""
        return list(self._records(self._groups.studies[uid]))

    def picture_folders(self) -> list[str]:
        """Folders whose pictures are a patient's slices: no DICOM image stands among them."""
        return [folder for folder in self._groups.pictures if folder not in self._groups.dicom_folders]

    def pictures(self, folder: str) -> list[FileRecord]:
        """The records of a folder's pictures."""
        records = self._records(self._groups.pictures[folder])
        return [record for record in records if record.picture and picture_folder(record.picture) == folder]

    def pictures_by_path(self) -> dict[str, FileRecord]:
        """The records of all pictures that are files of their own."""
        lines = (_found.decode(self._line(place)) for places in self._groups.pictures.values() for place, _ in places)
        return {found.path: found.records[0] for found in lines if found.records[0].picture}

    def volumes(self) -> list[str]:
        """Every NIfTI volume by its path, but those that stand among DICOM images."""
        return [name for name in self._groups.volumes if name.rpartition("/")[0] not in self._groups.dicom_folders]

    def has_volume(self, name: str) -> bool:
        """Whether a file is a volume."""
        return name in self._groups.volumes

    def volume(self, name: str) -> list[FileRecord]:
        """The record of a volume."""
        records = self._records(self._groups.volumes[name])
        return [record for record in records if record.volume and volume_name(record.volume, record) == name]

    def left_out(self) -> list[Event]:
        """Files outside any study, by reason; with strays, pictures and volumes that stand among DICOM images."""
        counts = Counter(self._groups.left_out)
        n_strays = len(self._groups.volumes) - len(self.volumes())
        if n_strays:
            counts["index", Reason.NOT_DICOM] += n_strays
        for folder in self._groups.dicom_folders & self._groups.pictures.keys():
            counts["index", Reason.NOT_DICOM] += len(self.pictures(folder))
        return [Event("file", stage, code, count) for (stage, code), count in sorted(counts.items())]  # type: ignore[arg-type]

    def kinds(self) -> dict[str, int]:
        """Files outside any study, by how their names end."""
        return dict(sorted(self._groups.kinds.items()))

    def _recall(self) -> None:
        """Index the lines of earlier scans; the last reading of a file wins, a torn line is read over."""
        self._file.seek(0)
        place = 0
        line = b"\n"
        decoder = msgspec.json.Decoder(_Glance)
        for line in self._file:
            try:
                found = decoder.decode(line)
            except msgspec.DecodeError:
                found = _Glance("")  # torn by a kill: the file is read again
            if found.path and not any(record.reason in AGAIN for record in found.records):
                self._known.add(found.path, place)
            place += len(line)
        self._known.sort()
        if not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _count(self, found: FoundFile, place: int, line: bytes) -> None:
        groups = self._groups
        groups.n_files += len(found.records)
        if found.studies:
            groups.dicom_folders.add(found.path.rpartition("/")[0])
        for record in found.records:
            if record.reason:
                groups.left_out["unpack" if record.member or len(found.records) > 1 else "walk", record.reason] += 1
                groups.kinds[kind_of(record.member or found.path)] += 1
            elif record.member and not record.picture and not record.volume:
                groups.dicom_folders.add(f"{found.path}!/{record.member}".rpartition("/")[0])
        if len(found.records) <= FEW:
            others = {id(places): places for record in found.records if not record.headers for places in self._of(record)}
            for places in (*(groups.studies[uid] for uid in found.studies), *others.values()):
                places.add(place)
            return
        for record, (start, length) in zip(found.records, _spans(line), strict=True):
            for places in self._of(record):
                places.add(place + start, length)

    def _of(self, record: FileRecord) -> list[_Places]:
        """The groups to which a record belongs."""
        groups = self._groups
        if record.picture:
            return [groups.pictures[picture_folder(record.picture)]]
        if record.volume:
            return [groups.volumes[volume_name(record.volume, record)]]
        return [groups.studies[uid] for uid in dict.fromkeys(header.study_uid for header in record.headers)]

    def _records(self, places: _Places) -> Iterator[FileRecord]:
        for place, length in places:
            if length:
                self._file.seek(place)
                yield _record.decode(self._file.read(length))
            else:
                yield from _found.decode(self._line(place)).records

    def _line(self, place: int) -> bytes:
        self._file.seek(place)
        return self._file.readline()


def _spans(line: bytes) -> Iterator[tuple[int, int]]:
    """(start, length) of each record of a line."""
    start = line.index(RECORDS) + len(RECORDS)
    for record in _raws.decode(line).records:
        length = len(bytes(record))
        yield start, length
        start += length + len(b",")


class _Raws(msgspec.Struct):
    """A line whose records are left as they are written."""

    records: list[msgspec.Raw]


RECORDS = b'"records":['
_found = msgspec.json.Decoder(FoundFile)
_record = msgspec.json.Decoder(FileRecord)
_raws = msgspec.json.Decoder(_Raws)


def found_files(private: Path, needle: str) -> list[FoundFile]:
    """Every file of the newest scan whose record holds `needle`, as last read. Nothing is kept of the others."""
    scans = sorted(private.glob("scan-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    files: dict[str, FoundFile] = {}
    sought = msgspec.json.encode(needle)[1:-1]
    if not scans:
        return []
    with scans[-1].open("rb") as scan:
        for line in scan:
            if sought in line and line.endswith(b"\n"):
                found = _found.decode(line)
                files[found.path] = found
    return list(files.values())
