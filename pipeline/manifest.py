"""The ordered list of studies on disk, with what reading their chosen slices will need; lives under the run's `private/`.

manifest.jsonl: one header line, then one line a study in order of study_key. scan.jsonl: one line a file ever read, so that
indexing again reads only what is new or changed, and an index killed half-way goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.records import Event, Study
from pipeline.stall import moved
from pipeline.store import write_whole

NAME = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Heading:
    """What holds for the whole manifest; `root` is the archive's folder.

    `n_files` counts every file found and every member of a container: those of the studies and those of the file events.
    """

    root: str
    key_fingerprint: str
    selection_sha256: str
    n_files: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What dealing needs of a study; the rest stays on the disk, `length` bytes from `offset`. `digest` names the content."""

    study_key: str
    status: str
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
            return file.read(entry.length)


class _Head(msgspec.Struct):
    """The part of a study's line that `Entry` keeps."""

    study_key: str
    status: str = "READY"
    cost: float = 1.0


def write_manifest(private: Path, heading: Heading, studies: Iterable[Study]) -> None:
    """Write the manifest whole; readable by its owner only."""
    write_whole(private / NAME, map(_line, chain([heading], studies)), mode=0o600)


def _line(record: object) -> bytes:
    moved()
    return msgspec.json.encode(record) + b"\n"


def read_heading(private: Path) -> Heading:
    """What holds for the whole manifest. Raises ConfigurationError where there is none or it is damaged."""
    try:
        with (private / NAME).open("rb") as file:
            return msgspec.json.decode(file.readline(), type=Heading)
    except OSError as error:
        raise ConfigurationError(f"no manifest in {private}: run `drenet index ARCHIVE --out RUN` first") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the manifest in {private} is damaged: delete it and index again") from error


def read_manifest(private: Path) -> Manifest:
    """The manifest, studies left on the disk. Raises ConfigurationError where there is none or it is damaged."""
    heading = read_heading(private)
    total, entries = hashlib.sha256(), []
    path, decoder = private / NAME, msgspec.json.Decoder(_Head)
    try:
        with path.open("rb") as file:
            first = file.readline()
            total.update(first)
            offset = len(first)
            for line in file:
                head, digest = decoder.decode(line), hashlib.sha256(line).hexdigest()
                total.update(line)
                entries.append(Entry(head.study_key, head.status, head.cost, digest[:16], offset, len(line)))
                offset += len(line)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the manifest in {private} is damaged: delete it and index again") from error
    return Manifest(path, heading, tuple(entries), total.hexdigest())
