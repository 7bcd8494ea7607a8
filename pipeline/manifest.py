"""The ordered list of studies on disk, with what reading their chosen slices will need; lives under the run's `private/`.

manifest.jsonl: one header line, then one line a study in order of study_key. scan.jsonl: one line a file ever read, so that
indexing again reads only what is new or changed, and an index killed half-way goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.records import Event, Study
from pipeline.store import write_whole

NAME = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Heading:
    """What holds for the whole manifest; `root` is the archive's folder."""

    root: str
    key_fingerprint: str
    selection_sha256: str
    n_files: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What dealing needs of a study; the rest stays as the line's bytes."""

    study_key: str
    status: str
    cost: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest in root's memory: `lines[i]` is the JSON of study i."""

    heading: Heading
    entries: tuple[Entry, ...]
    lines: tuple[bytes, ...]
    sha256: str


def write_manifest(private: Path, heading: Heading, studies: Iterable[Study]) -> None:
    """Write the manifest whole; readable by its owner only."""
    lines = (msgspec.json.encode(record) + b"\n" for record in (heading, *studies))
    write_whole(private / NAME, lines, mode=0o600)


def read_manifest(private: Path) -> Manifest:
    """Raises ConfigurationError where there is none or it is damaged."""
    try:
        data = (private / NAME).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"no manifest in {private}: run `drenet index ARCHIVE --out RUN` first") from error
    first, *lines = data.splitlines()
    try:
        heading = msgspec.json.decode(first, type=Heading)
        entries = tuple(msgspec.json.decode(line, type=Entry) for line in lines)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the manifest in {private} is damaged: delete it and index again") from error
    return Manifest(heading, entries, tuple(lines), hashlib.sha256(data).hexdigest())
