"""The file of a scan: lines that are appended, and read back by their places; where those of a path or a study lie.

Memory holds 16 bytes a line of an earlier scan (`KnownPaths`) and 8 a file of a study (`Places`), so that root can index
millions.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from pipeline.files import storage_error

WRITTEN, READ = 1 << 16, 1 << 14
"""Bytes that are written together; bytes that are read together: a study's lines lie side by side."""
BEFORE_PATH, BEHIND_PATH, RECORDS = b'{"path":', b'","', b'"records":['
"""A line's path stands between the first two: within a text of JSON, no quotation mark is without its backslash."""


class ScanLines:
    """The lines of one file, open to be appended to and read. What fails is a StorageError about `told`."""

    def __init__(self, path: Path, told: Path) -> None:
        self._told = told
        try:
            self._out = path.open("ab", WRITTEN)
            path.chmod(0o600)
            self._in = path.open("rb", READ)
            self._end = self._out.tell()
            self._mend()
        except OSError as error:
            raise storage_error(error, told) from error

    def _mend(self) -> None:
        """End a line that was torn by a kill, so that the next one is whole."""
        self._in.seek(max(0, self._end - 1))
        if self._in.read(1) not in (b"", b"\n"):
            self.append(b"")

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(place, line) of all that was there; the last may be torn, and lines before it damaged."""
        place = 0
        self._in.seek(0)
        for line in self._in:
            yield place, line
            place += len(line)

    def append(self, line: bytes) -> int:
        """Write a line, which `flush` makes last; its place. Raises StorageError."""
        place = self._end
        try:
            self._end += self._out.write(line + b"\n")
        except OSError as error:
            raise storage_error(error, self._told) from error
        return place

    def flush(self) -> None:
        """Let what was appended survive a kill, and be read. Raises StorageError."""
        try:
            self._out.flush()
        except OSError as error:
            raise storage_error(error, self._told) from error

    def read(self, place: int, length: int = 0) -> bytes:
        """So many bytes at a place, or the line that begins there."""
        self._in.seek(place)
        return self._in.read(length) if length else self._in.readline()

    def close(self) -> None:
        """Try again to write what there was no room for. Raises StorageError."""
        try:
            self._in.close()
            self._out.close()
        except OSError as error:
            raise storage_error(error, self._told) from error


class Places:
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


class KnownPaths:
    """Where the lines of earlier scans lie, by a hash of how they begin, with the file's path: the same may be another's.

    Lines are not understood here: a torn one is found like any other.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._places = array("q")
        self._sorted = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, line: bytes, place: int) -> None:
        """A line."""
        self._hashes.append(hash(line.partition(BEHIND_PATH)[0]))
        self._places.append(place)

    def sort(self) -> None:
        """To be called once, when all is added."""
        hashes = np.array(self._hashes, np.int64)
        places = np.array(self._places, np.int64)
        self._hashes = array("q")
        self._places = array("q")
        order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[order], places[order]

    def find(self, paths: Sequence[str]) -> list[list[int]]:
        """Of each path the places of the lines that may be its own, the newest first."""
        hashes, places = self._sorted
        wanted = np.array([hash(BEFORE_PATH + msgspec.json.encode(path)[:-1]) for path in paths], np.int64)
        firsts = np.searchsorted(hashes, wanted, "left").tolist()
        ends = np.searchsorted(hashes, wanted, "right").tolist()
        return [places[first:end][::-1].tolist() for first, end in zip(firsts, ends, strict=True)]


def spans(line: bytes) -> Iterator[tuple[int, int]]:
    """(start, length) of each record of a line."""
    start = line.index(RECORDS) + len(RECORDS)
    for record in _raws.decode(line).records:
        length = len(bytes(record))
        yield start, length
        start += length + len(b",")


class _Raws(msgspec.Struct):
    """A line whose records are left as they are written."""

    records: list[msgspec.Raw]


_raws = msgspec.json.Decoder(_Raws)
