"""An upload on its way to the disk: multipart is parsed as it comes, each file goes straight into the spool.

Names come from strangers. What they say of folders and order is kept, for pictures need it, and they are made harmless: no part
leads out, and of two files with one name each keeps its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import quote

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from pipeline.server.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

DEEPEST = 8
LONGEST = 120
MOST_HEADERS = 64 << 10
"""Bytes of one part's headers."""


class UploadSink(Protocol):
    """Where the files of a multipart body go."""

    def begin(self, headers: dict[str, str]) -> BinaryIO | None:
        """A part begins; None where it is not wanted."""

    def end(self, file: BinaryIO) -> None:
        """A part that was wanted is whole; the file is closed."""


@dataclass(slots=True)
class UploadLimits:
    """What one body may take."""

    max_bytes: int
    max_files: int
    seconds: float


@dataclass(slots=True)
class Files:
    """The files of an upload in `folder`, which is made for them."""

    folder: Path
    field: str = "files"
    n_files: int = 0

    def begin(self, headers: dict[str, str]) -> BinaryIO | None:
        """A file of the wanted field; anything else is passed over."""
        named = parameters(headers.get("content-disposition", ""))
        if named.get("name") != self.field or "filename" not in named:
            return None
        self.n_files += 1
        return create(self.folder, named["filename"], self.n_files)

    def end(self, file: BinaryIO) -> None:
        """Nothing to do."""


def parameters(header: str) -> dict[str, str]:
    """The parameters of a Content-Disposition or Content-Type header."""
    message = Message()
    message["Content-Type"] = re.sub(r"[\r\n]+", " ", header)
    return {name.lower(): str(value) for name, value in message.get_params(failobj=[], unquote=True)[1:]}


def create(folder: Path, name: str, number: int) -> BinaryIO:
    """A new file under `folder` for a file called `name`, in a folder of its own where that name is taken."""
    path = folder.joinpath(*harmless(name))
    try:
        return _create(path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return _create(folder / f"again-{number}" / path.name)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.open("xb")


def harmless(name: str) -> list[str]:
    """The parts of a path that leads nowhere but down; bytes beyond plain ASCII are percent-encoded."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")][-DEEPEST:]
    return [quote(part.encode("utf-8", "surrogateescape"), safe=" !#&'()+,;=@[]{}^~")[-LONGEST:] for part in parts] or ["file"]


@dataclass(slots=True)
class _Parts:
    """The state between the parser's calls."""

    sink: UploadSink
    limits: UploadLimits
    n_parts: int = 0
    is_whole: bool = False
    file: BinaryIO | None = None
    headers: dict[str, str] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _n_header: int = 0

    def calls(self) -> MultipartCallbacks:
        """The parser's callbacks."""
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        self.n_parts += 1
        if self.n_parts > self.limits.max_files:
            raise Problem("TOO_MANY_FILES")
        self.headers = {}
        self._name = b""
        self._value = b""
        self._n_header = 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._counted(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, data: bytes) -> bytes:
        self._n_header += len(data)
        if self._n_header > MOST_HEADERS:
            raise Problem("NOT_MULTIPART")
        return data

    def header_end(self) -> None:
        self.headers[self._name.decode("latin-1").lower()] = self._value.decode("utf-8", "surrogateescape")
        self._name = b""
        self._value = b""

    def headers_finished(self) -> None:
        self.file = self.sink.begin(self.headers)

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self.file is not None:
            self.file.write(data[start:end])

    def part_end(self) -> None:
        if self.file is not None:
            self.file.close()
            self.sink.end(self.file)
        self.file = None

    def end(self) -> None:
        self.is_whole = True

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


async def receive(body: AsyncIterator[bytes], content_type: str, declared: str, sink: UploadSink, limits: UploadLimits) -> int:
    """Take a multipart body into `sink`; its bytes. Raises Problem, OSError where the disk is full."""
    boundary = parameters(content_type).get("boundary", "")
    if not content_type.lower().startswith("multipart/"):
        raise Problem("UNSUPPORTED_MEDIA_TYPE")
    if not boundary:
        raise Problem("NOT_MULTIPART", "the Content-Type names no boundary")
    if declared.isdigit() and int(declared) > limits.max_bytes:
        raise Problem("UPLOAD_TOO_LARGE", f"at most {limits.max_bytes:,} bytes are taken")
    parts = _Parts(sink, limits)
    try:
        async with asyncio.timeout(limits.seconds):
            return await _parsed(body, boundary, parts)
    except TimeoutError:
        raise Problem("UPLOAD_TOO_SLOW") from None
    except (MultipartParseError, UnicodeError, ValueError):
        raise Problem("NOT_MULTIPART") from None
    finally:
        parts.close()


async def _parsed(body: AsyncIterator[bytes], boundary: str, parts: _Parts) -> int:
    parser = MultipartParser(boundary.encode("latin-1"), parts.calls())
    n_bytes = 0
    async for chunk in body:
        n_bytes += len(chunk)
        if n_bytes > parts.limits.max_bytes:
            raise Problem("UPLOAD_TOO_LARGE", f"at most {parts.limits.max_bytes:,} bytes are taken")
        parser.write(chunk)
    parser.finalize()
    if not parts.is_whole:
        raise Problem("NOT_MULTIPART", "the body ends before its last boundary")
    return n_bytes
