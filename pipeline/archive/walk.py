"""List one folder, open one file: whatever lies there, nothing hangs, loops or is lost.

Paths of the archive are kept `portable`: plain text that stands for any bytes a file system allows in a name.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pipeline.archive.found import FileRecord, FoundFile
from pipeline.errors import Reason, StudyError

IO_TRIES = 3
IO_PAUSE_S = 0.2
READ_AHEAD = 16384
"""Bytes that are read together: more than most headers have."""
Result = TypeVar("Result")


def portable(name: str) -> str:
    """A file name of any bytes as plain text; printable ASCII stays as it is."""
    return quote_from_bytes(os.fsencode(name), safe=" !#$&'()+,;=@[]{}^~/")


def native(path: str) -> str:
    """The file system's own name of a `portable` one."""
    return os.fsdecode(unquote_to_bytes(path))


def list_folder(root: Path, folder: str) -> tuple[list[str], list[FoundFile], str]:
    """(sub-folders, files, why it could not be listed), relative to `root`; files are looked at, not yet read."""
    folders: list[str] = []
    files: list[FoundFile] = []
    try:
        entries = sorted(_retried(lambda: list(os.scandir(root / native(folder)))), key=lambda entry: entry.name)
    except OSError as error:
        return [], [], _reason(error)
    for entry in entries:
        name = portable(entry.name)
        path = f"{folder}/{name}" if folder else name
        if entry.is_dir(follow_symlinks=False) or _leads_elsewhere(root, entry):
            folders.append(path)
        else:
            files.append(looked_at(entry, path))
    return folders, files, ""


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading. Raises StudyError, stage walk; a FIFO or device is never waited for."""
    try:
        handle = _retried(lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise StudyError(Reason(_reason(error)), "walk") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StudyError(Reason.NOT_REGULAR_FILE, "walk")
    return io.BufferedReader(io.FileIO(handle), READ_AHEAD)  # what open() makes, without its further looks at the file


def _leads_elsewhere(root: Path, entry: os.DirEntry[str]) -> bool:
    """A linked folder is followed once: out of the archive, never within it or back to it, so that nothing loops."""
    if not entry.is_symlink():
        return False
    try:
        if not entry.is_dir():
            return False
        top = root.resolve()
        here = Path(entry.path).parent.resolve()
        there = Path(entry.path).resolve()
    except (OSError, RuntimeError):
        return False
    return here.is_relative_to(top) and not there.is_relative_to(top) and not top.is_relative_to(there)


def looked_at(entry: os.DirEntry[str] | Path, path: str) -> FoundFile:
    """A file that may stand in the archive, or why it cannot be read."""
    try:
        info = entry.stat()
    except OSError as error:
        loops = entry.is_symlink() and error.errno == errno.ELOOP
        return _left_out(path, Reason.SYMLINK_LOOP if loops else _reason(error))
    if stat.S_ISDIR(info.st_mode):
        return _left_out(path, Reason.SYMLINK_LOOP)
    if not stat.S_ISREG(info.st_mode):
        return _left_out(path, Reason.NOT_REGULAR_FILE)
    return FoundFile(path, info.st_size, info.st_mtime_ns) if info.st_size else _left_out(path, Reason.EMPTY_FILE)


def _left_out(path: str, reason: Reason) -> FoundFile:
    return FoundFile(path, records=(FileRecord(reason=reason),))


def _retried(call: Callable[[], Result]) -> Result:
    """Storage may stumble (EIO, ESTALE): try three times before saying so."""
    for _ in range(IO_TRIES - 1):
        try:
            return call()
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            raise
        except OSError:
            time.sleep(IO_PAUSE_S)
    return call()


def _reason(error: OSError) -> Reason:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Reason.FILE_VANISHED
    return Reason.PERMISSION_DENIED if isinstance(error, PermissionError) else Reason.IO_ERROR
