"""Files that are whole or absent, and what a failure to write one means."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ConfigurationError, PipelineError, StorageError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that only says where Git LFS keeps the real one."""
SEAL = 10
"""Bytes behind the text of a sealed line."""


def storage_error(error: OSError, path: Path) -> PipelineError:
    """What an OSError of the run's own folder means to who runs it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left for {path}: free some and start the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return ConfigurationError(f"cannot write {path}: {error.strerror}; choose another --out")
    return StorageError(f"writing {path} failed: {error.strerror}; start the same command again when the storage is well")


def write_whole(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o644) -> None:
    """Write `path` wholly or not at all."""
    with whole(path, mode=mode) as file:
        file.writelines((data,) if isinstance(data, bytes) else data)


@contextmanager
def whole(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file that becomes `path` when all is written, or nothing: temporary name, fsync, rename. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make what a file holds, or a rename in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sealed(text: bytes) -> bytes:
    """A line that tells by itself whether it is whole: `text`, a tab, its CRC-32 in eight hexadecimal digits."""
    return b"%s\t%08x\n" % (text, zlib.crc32(text))


def unsealed(line: bytes) -> memoryview | None:
    """The text of a sealed line, or None where it is torn or damaged."""
    text = memoryview(line)[:-SEAL]
    return text if line[-SEAL:] == b"\t%08x\n" % zlib.crc32(text) else None
