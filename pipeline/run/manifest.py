"""The ordered list of studies on disk, with what reading their chosen slices will need; lives under the run's `private/`.

manifest.jsonl: one header line, then one line a study in order of study_key. scan.jsonl: one line a file ever read, so that
indexing again reads only what is new or changed, and an index killed half-way goes on where it stopped.

manifest.heads: one line a study with what `Head` holds, so that gigabytes need not be read to know them. It is deleted before
a manifest is written and made after it, and may be missing.

A study whose files are what they were is taken from the earlier manifest as it stands there (earlier.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from pipeline.errors import ConfigurationError, Reason
from pipeline.files import write_whole
from pipeline.mpi.stall import moved
from pipeline.records import Event, Study
from pipeline.run.kinds import counted
from pipeline.run.paths import MANIFEST, MANIFEST_HEADS

NO_CT = frozenset({Reason.NO_CT, Reason.NON_IMAGE_ONLY})
"""Reasons of studies in which there is nothing of a CT."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What holds for the whole manifest; `root` is the archive's folder.

    `n_files` counts every file found and every member of a container: those of the studies and those of the file events, which
    `kinds` tells by how their names end.
    """

    root: str
    key_fingerprint: str
    selection_sha256: str
    n_files: int
    events: tuple[Event, ...] = ()
    kinds: dict[str, int] = field(default_factory=dict)


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What dealing needs of a study; the rest stays on the disk, `length` bytes from `offset`. `digest` names the content."""

    study_key: str
    status: Literal["READY", "EXCLUDED", "FAILED"]
    cost: float
    digest: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest as root sees it: one entry a study in memory, the studies themselves read when they are dealt."""

    path: Path
    heading: Heading
    entries: tuple[Entry, ...]
    sha256: str

    def study(self, number: int) -> Study:
        """The whole entry of one study."""
        return msgspec.json.decode(self.raw(number), type=Study)

    def raw(self, number: int) -> bytes:
        """The same, as JSON."""
        entry = self.entries[number]
        with self.path.open("rb") as file:
            file.seek(entry.offset)
            line = file.read(entry.length)
        if line_digest(line) != entry.digest:
            raise ConfigurationError(f"the manifest in {self.path.parent} is damaged: delete it and index again")
        return line


class Head(Entry, frozen=True, array_like=True, gc=False):
    """A line of manifest.heads: an entry, and a digest of what its study was made of, "" where that is made anew each time."""

    sources: str = ""


class Made(NamedTuple):
    """A study for the manifest, or its line in the earlier one, and the `sources` of its head."""

    study: Study | bytes
    sources: str = ""


class _Part(msgspec.Struct):
    """The part of a study's line that `Entry` keeps."""

    study_key: str
    status: Literal["READY", "EXCLUDED", "FAILED"] = "READY"
    cost: float = 1.0


_part = msgspec.json.Decoder(_Part)


class Sums(msgspec.Struct, array_like=True):
    """First line of manifest.heads: the manifest's digest and its length; what its studies were made by, their files aside."""

    sha256: str
    length: int
    made_by: str = ""


def write_manifest(private: Path, heading: Heading, studies: Iterable[Study | Made], made_by: str = "") -> None:
    """Write the manifest whole; readable by its owner only."""
    (private / MANIFEST_HEADS).unlink(missing_ok=True)
    total = hashlib.sha256()
    heads = bytearray()
    end = 0

    def lines() -> Iterator[bytes]:
        nonlocal end
        for record in chain([heading], studies):
            study, sources = record if isinstance(record, Made) else (record, "")
            line = study if isinstance(study, bytes) else msgspec.json.encode(study) + b"\n"
            total.update(line)
            if not isinstance(study, Heading):
                part = _part.decode(line) if isinstance(study, bytes) else study
                heads.extend(msgspec.json.encode((*astuple(_entry(part, line, end)), sources)) + b"\n")
            end += len(line)
            moved()
            yield line

    write_whole(private / MANIFEST, lines(), mode=0o600)
    sums = msgspec.json.encode(Sums(total.hexdigest(), end, made_by)) + b"\n"
    write_whole(private / MANIFEST_HEADS, (sums, bytes(heads)), mode=0o600)


def _entry(part: Study | _Part, line: bytes, offset: int) -> Entry:
    return Entry(part.study_key, part.status, part.cost, line_digest(line), offset, len(line))


def line_digest(line: bytes) -> str:
    """What names a study's line by its content."""
    return hashlib.sha256(line).hexdigest()[:16]


def read_heading(private: Path) -> Heading:
    """What holds for the whole manifest. Raises ConfigurationError where there is none or it is damaged."""
    try:
        with (private / MANIFEST).open("rb") as file:
            return msgspec.json.decode(file.readline(), type=Heading)
    except OSError as error:
        raise ConfigurationError(
            f"no manifest in {private} yet: a job that runs is still indexing; else `drenet index ARCHIVE --out RUN` first"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the manifest in {private} is damaged: delete it and index again") from error


def read_manifest(private: Path) -> Manifest:
    """The manifest, studies left on the disk. Raises ConfigurationError where there is none or it is damaged."""
    heading = read_heading(private)
    entries, sha256 = _by_heads(private) or _by_reading(private)
    return Manifest(private / MANIFEST, heading, tuple(entries), sha256)


def _by_heads(private: Path) -> tuple[list[Entry], str] | None:
    """Entries and digest from manifest.heads; None where it is missing or speaks of another manifest."""
    try:
        first, *lines = (private / MANIFEST_HEADS).read_bytes().splitlines()
        sums = msgspec.json.decode(first, type=Sums)
        decoder = msgspec.json.Decoder(Entry)
        entries = [decoder.decode(line) for line in lines]
    except (OSError, ValueError):
        return None
    return (entries, sums.sha256) if sums.length == (private / MANIFEST).stat().st_size else None


def _by_reading(private: Path) -> tuple[list[Entry], str]:
    total = hashlib.sha256()
    entries = list[Entry]()
    offset = 0
    try:
        with (private / MANIFEST).open("rb") as file:
            for line in file:
                total.update(line)
                if offset:
                    entries.append(_entry(_part.decode(line), line, offset))
                offset += len(line)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the manifest in {private} is damaged: delete it and index again") from error
    return entries, total.hexdigest()


def check_has_ct(private: Path) -> None:
    """Raises ConfigurationError where no study is of CT, saying what was found instead."""
    manifest = read_manifest(private)
    n_studies = len(manifest.entries)
    if any(entry.status == "READY" for entry in manifest.entries):
        return
    if any(manifest.study(number).reason not in NO_CT for number in range(n_studies)):
        return
    heading = manifest.heading
    found = f"{heading.n_files:,} files and members of containers" if heading.n_files else "no file at all"
    outside = f", of no study: {counted(heading.kinds)}" if heading.kinds else ""
    others = f"; {n_studies:,} studies without CT" if n_studies else ""
    raise ConfigurationError(
        f"no CT in the archive: {found}{outside}{others}{_reasons(heading)}. Read are DICOM and NIfTI, also in ZIP and "
        "TAR, and folders of exported slices; what each reason means, and its cure: docs/reasons.md"
    )


def _reasons(heading: Heading) -> str:
    said = ", ".join(f"{event.code} {event.count:,}" for event in heading.events)
    return f"; left out as {said}" if said else ""
