"""The file that HDF5 writes results.h5 into: it never tells HDF5 that a write has failed.

HDF5 keeps what it could not write, tries again as it closes and once more as the process ends, and there it crashes. So a
failed write is remembered here, to be raised by `check` and at the end, and from then on what HDF5 writes is kept in memory: it
closes what it takes for a sound file. That is little as long as the writer calls `check` after every batch.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class Sink(io.RawIOBase):
    """A new file at `path`, for h5py's driver of file objects; a context manager, which raises what went wrong (OSError)."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._place = 0
        self._trouble: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.check()
                os.fsync(self._handle)
        finally:
            self.close()

    def check(self) -> None:
        """Raises the OSError of the first write that failed."""
        if self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """Close the file; nothing is checked."""
        if not self.closed:
            os.close(self._handle)
        super().close()

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to `offset`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size()}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Where the next byte is read or written."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`: zeros where nothing was written."""
        buffer[:] = os.pread(self._handle, len(buffer), self._place).ljust(len(buffer), b"\0")
        for start, data in self._kept:
            first = max(start, self._place)
            last = min(start + len(data), self._place + len(buffer))
            if first < last:
                buffer[first - self._place : last - self._place] = data[first - start : last - start]
        self._place += len(buffer)
        return len(buffer)

    def write(self, data: Any) -> int:
        """Write all of `data`, or remember what went wrong."""
        if self._trouble is None:
            self._write_through(data)
        if self._trouble is not None:
            self._kept.append((self._place, bytes(data)))
        self._place += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen the file; without room it stays as it is."""
        wanted = self._place if size is None else size
        try:
            os.ftruncate(self._handle, wanted)
        except OSError as error:
            self._trouble = self._trouble or error
        return wanted

    def _write_through(self, data: memoryview) -> None:
        n_done = 0
        try:
            while n_done < len(data):
                n_done += os.pwrite(self._handle, data[n_done:], self._place + n_done)
        except OSError as error:
            self._trouble = error

    def _size(self) -> int:
        kept = max((start + len(data) for start, data in self._kept), default=0)
        return max(kept, os.fstat(self._handle).st_size)
