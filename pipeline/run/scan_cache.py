"""What has been read of every file of an archive: one line a file in `private/scan-N.jsonl`, places of lines in memory.

A later scan takes from it what has not changed, and goes on where a killed one stopped. Headers are read back study by study,
and of a container's line only the members of that study; until then root looks only at what says where a file belongs.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pipeline.archive import ONLY, FileRecord, FoundFile, VolumeFile, picture_folder, volume_name
from pipeline.config import Rule
from pipeline.errors import TRANSIENT, Reason
from pipeline.records import Event, SliceSource
from pipeline.run.kinds import kind_of
from pipeline.run.scan_lines import KnownPaths, Places, ScanLines, spans

VERSION = 6
"""Counts up when what is read of a file changes: older scans are then not believed."""
NAME = f"scan-{VERSION}.jsonl"
AGAIN = frozenset({*TRANSIENT, Reason.PERMISSION_DENIED, Reason.FILE_VANISHED, Reason.OUT_OF_MEMORY})
"""Reasons that may be gone although the file has not changed."""
AT_ONCE = 1000
"""Files that are looked up together."""
FEW = 20
"""Records of a line that are read together; of a longer line each has a place of its own."""


@dataclass(slots=True)
class _Groups:
    """Places of records by what they belong to."""

    studies: dict[str, Places] = field(default_factory=lambda: defaultdict(Places))
    pictures: dict[str, Places] = field(default_factory=lambda: defaultdict(Places))
    volumes: dict[str, Places] = field(default_factory=lambda: defaultdict(Places))
    dicom_folders: set[str] = field(default_factory=set)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    n_files: int = 0


class _SeenHeader(msgspec.Struct, gc=False):
    """Of a header the study."""

    study_uid: str


class _SeenRecord(msgspec.Struct, gc=False):
    """Of a record what says where it belongs."""

    reason: str = ""
    member: str = ""
    headers: tuple[_SeenHeader, ...] = ()
    picture: SliceSource | None = None
    volume: VolumeFile | None = None


class _Seen(msgspec.Struct, gc=False):
    """The part of a line that says whether its file need not be read again, and where it belongs."""

    path: str
    size: int = 0
    mtime_ns: int = 0
    records: tuple[_SeenRecord, ...] = ()
    studies: tuple[str, ...] = ()


def _name(asked: Sequence[Rule]) -> str:
    """Other rules about descriptions are another reading: a description is not kept, so that it must be read again."""
    digest = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:8] if asked else ""
    return f"scan-{VERSION}-{digest}.jsonl" if asked else NAME


class Catalogue:
    """The scan's file, open; a context manager. A file's line counts once it was `take`n in this scan.

    `asked` are the rules that were answered as its files were read (archive/rules.py).
    """

    def __init__(self, private: Path, asked: Sequence[Rule] = ()) -> None:
        self._lines = ScanLines(private / _name(asked), private.parent)
        self._known = KnownPaths()
        self._groups = _Groups()
        self._index_lines()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    @property
    def n_files(self) -> int:
        """Files and members of containers taken in so far."""
        return self._groups.n_files

    def recall(self, files: Sequence[FoundFile]) -> list[FoundFile]:
        """Take in what is known of unchanged files; the others, which must be read, are returned."""
        fresh: list[FoundFile] = []
        for start in range(0, len(files), AT_ONCE):
            asked = files[start : start + AT_ONCE]
            known = self._known.find([file.path for file in asked])
            fresh += [file for file, places in zip(asked, known, strict=True) if not self._recalled(file, places)]
        return fresh

    def _recalled(self, file: FoundFile, places: Sequence[int]) -> bool:
        """Whether one of the lines, newest first, is of this very file, which is then taken in."""
        for place in places:
            line = self._lines.read(place)
            seen = _believed(line)
            if seen and seen.path == file.path:
                same = (seen.size, seen.mtime_ns) == (file.size, file.mtime_ns)
                if same:
                    self._count(seen, place, line)
                return same
        return False

    def add(self, line: bytes) -> None:
        """Take in what has just been read of a file: a FoundFile as JSON. Raises StorageError."""
        self._count(_seen.decode(line), self._lines.append(line), line)

    def flush(self) -> None:
        """Let what was added survive a kill. Raises StorageError."""
        self._lines.flush()

    def study_uids(self) -> list[str]:
        """Every study met."""
        return list(self._groups.studies)

    def study(self, uid: str) -> list[FileRecord]:
        """The records of all files of a study."""
        return list(self._records(self._groups.studies[uid]))

    def sources(self, uid: str) -> str:
        """A digest of all that was read of a study's files: the same means that nothing of them has changed."""
        self._lines.flush()
        total = hashlib.sha256()
        for place, length in sorted(self._groups.studies[uid]):
            total.update(self._lines.read(place, length))
        return total.hexdigest()[:16]

    def picture_folders(self) -> list[str]:
        """Folders whose pictures are a patient's slices: no DICOM image stands among them."""
        return [folder for folder in self._groups.pictures if folder not in self._groups.dicom_folders]

    def pictures(self, folder: str) -> list[FileRecord]:
        """The records of a folder's pictures."""
        records = self._records(self._groups.pictures[folder])
        return [record for record in records if record.picture and picture_folder(record.picture) == folder]

    def pictures_by_path(self) -> dict[str, FileRecord]:
        """The records of all pictures that are files of their own."""
        self._lines.flush()
        lines = (_found.decode(self._lines.read(place)) for places in self._groups.pictures.values() for place, _ in places)
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
        return [record for record in records if record.volume and volume_name(record.volume, record.member) == name]

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

    def _index_lines(self) -> None:
        """Note where the lines of earlier scans lie."""
        for place, line in self._lines:
            self._known.add(line, place)
        self._known.sort()

    def _count(self, found: _Seen, place: int, line: bytes) -> None:
        groups = self._groups
        groups.n_files += len(found.records)
        if found.studies:
            groups.dicom_folders.add(found.path.rpartition("/")[0])
        for record in found.records:
            if record.reason:
                groups.left_out["unpack" if record.member or len(found.records) > 1 else "walk", record.reason] += 1
                if record.reason != Reason.UNPACKED:  # what is in it counts
                    groups.kinds[kind_of(found.path if record.member in ("", ONLY) else record.member)] += 1
            elif record.member and not record.picture and not record.volume:
                groups.dicom_folders.add(f"{found.path}!/{record.member}".rpartition("/")[0])
        if len(found.records) <= FEW:
            others = {id(places): places for record in found.records if not record.headers for places in self._of(record)}
            for places in (*(groups.studies[uid] for uid in found.studies), *others.values()):
                places.add(place)
            return
        for record, (start, length) in zip(found.records, spans(line), strict=True):
            for places in self._of(record):
                places.add(place + start, length)

    def _of(self, record: _SeenRecord) -> list[Places]:
        """The groups to which a record belongs."""
        groups = self._groups
        if record.picture:
            return [groups.pictures[picture_folder(record.picture)]]
        if record.volume:
            return [groups.volumes[volume_name(record.volume, record.member)]]
        return [groups.studies[uid] for uid in dict.fromkeys(header.study_uid for header in record.headers)]

    def _records(self, places: Places) -> Iterator[FileRecord]:
        self._lines.flush()
        for place, length in places:
            data = self._lines.read(place, length)
            if length:
                yield _record.decode(data)
            else:
                yield from _found.decode(data).records


def _believed(line: bytes) -> _Seen | None:
    """What a line says; None where a kill has torn it, or the file is to be read again although it may not have changed."""
    try:
        seen = _seen.decode(line)
    except msgspec.DecodeError:
        return None
    return seen if AGAIN.isdisjoint([record.reason for record in seen.records]) else None


_found = msgspec.json.Decoder(FoundFile)
_record = msgspec.json.Decoder(FileRecord)
_seen = msgspec.json.Decoder(_Seen)


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
