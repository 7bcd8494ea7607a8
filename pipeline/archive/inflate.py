"""Packed bytes inflated a bounded piece at a time: members of a ZIP, gzip files, deflated data sets.

Python's zipfile inflates bzip2 and LZMA without a bound, its gzip reads names of any length byte by byte; so what they do is
done here by the engines beneath them.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from pipeline.archive.allowance import Allowance
from pipeline.errors import Reason, StudyError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = 1 << 16
KEPT = 1 << 16
GZIP = 16 + zlib.MAX_WBITS
RAW = -zlib.MAX_WBITS
MAX_DICTIONARY = 128 << 20
ENDLESS = 1 << 62
GZIP_MAGIC = b"\x1f\x8b"

Pieces = Iterator[bytes]


class Inflater(Protocol):
    """A decompressor of the standard library, as bz2's and lzma's are."""

    @property
    def eof(self) -> bool:
        """The packed stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out before something goes in."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more."""


class Deflate:
    """zlib's decompressor in the form of the others."""

    def __init__(self, form: int) -> None:
        self._engine = zlib.decompressobj(form)

    @property
    def eof(self) -> bool:
        """The packed stream has ended."""
        return self._engine.eof

    @property
    def needs_input(self) -> bool:
        """Nothing is left of what went in."""
        return not self._engine.unconsumed_tail

    @property
    def unused(self) -> bytes:
        """What went in and stands behind the packed stream."""
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more."""
        return self._engine.decompress(self._engine.unconsumed_tail + data, max_length)


class Stored:
    """What is not packed at all, in the form of the others."""

    eof = False
    needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The same bytes."""
        return data[:max_length]


class Forward(io.RawIOBase):
    """A stream over pieces that come from front to back; going back beyond the last 64 KiB begins anew."""

    name = ""
    """No file has it: pydicom asks every buffered stream."""

    def __init__(self, begin: Callable[[], Pieces]) -> None:
        super().__init__()
        self._begin = begin
        self._offset = 0
        self._restart()

    def _restart(self) -> None:
        self._pieces = self._begin()
        self._window = b""
        self._window_at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always, though going far costs time."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """The next bytes; 0 at the end."""
        if self._offset < self._window_at:
            self._restart()
        while self._offset >= (end := self._window_at + len(self._window)):
            piece = next(self._pieces, b"")
            if not piece:
                return 0
            kept = self._window[-KEPT:]
            self._window_at = end - len(kept)
            self._window = kept + piece
        view = memoryview(buffer).cast("B")
        first = self._offset - self._window_at
        data = self._window[first : first + len(view)]
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset, which is reached as it is read."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        new = offset + (self._offset if whence == io.SEEK_CUR else 0)
        if new < 0:
            raise ValueError("an offset before the beginning")
        self._offset = new
        return new

    def tell(self) -> int:
        """The offset."""
        return self._offset


class ByteRange(io.RawIOBase):
    """`size` bytes of another stream, from `start` on."""

    name = ""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._start = start
        self._size = size
        self._offset = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """The next bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        self._stream.seek(self._start + self._offset)
        data = self._stream.read(max(0, min(len(view), self._size - self._offset)))
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset of this range."""
        self._offset = offset + (0, self._offset, self._size)[whence]
        return self._offset

    def tell(self) -> int:
        """The offset in this range."""
        return self._offset


def forward(begin: Callable[[], Pieces]) -> BinaryIO:
    """The pieces that `begin` gives as a stream; it is called again where a reader goes far back."""
    return cast("BinaryIO", io.BufferedReader(Forward(begin), PIECE))


def byte_range(stream: BinaryIO, start: int, size: int) -> BinaryIO:
    """`size` bytes of `stream` from `start` on, as a stream."""
    return cast("BinaryIO", io.BufferedReader(ByteRange(stream, start, size)))


def packed(stream: BinaryIO, start: int, length: int = ENDLESS) -> Pieces:
    """The bytes from `start` on as they stand there, to the end or `length` of them."""
    while length > 0:
        stream.seek(start)
        data = stream.read(min(PIECE, length))
        if not data:
            return
        yield data
        start += len(data)
        length -= len(data)


def inflated(source: Pieces, engine: Inflater, allowance: Allowance, size: int = ENDLESS) -> Pieces:
    """What `source` grows to, at most `size` bytes. Raises StudyError ARCHIVE_CORRUPT, or what the allowance does."""
    while size > 0 and not engine.eof:
        with allowance.parsing(Reason.ARCHIVE_CORRUPT, "unpack"):
            starved = engine.needs_input
            data = next(source, b"") if starved else b""
            piece = engine.decompress(data, min(PIECE, size))
            if starved and not data and not piece:
                raise EOFError
        allowance.grown(len(piece))
        size -= len(piece)
        if piece:
            yield piece


def gunzipped(stream: BinaryIO, allowance: Allowance) -> Pieces:
    """The content of a gzip file, whose members are joined; what stands behind the last is passed over."""
    source = packed(stream, 0)
    rest = next(source, b"")
    while rest.startswith(GZIP_MAGIC):
        engine = Deflate(GZIP)
        yield from inflated(chain([rest], source), engine, allowance)
        rest = engine.unused
        while len(rest.lstrip(b"\0")) < len(GZIP_MAGIC) and (more := next(source, b"")):
            rest = rest.lstrip(b"\0") + more
            allowance.pause()
        rest = rest.lstrip(b"\0")


def undeflated(stream: BinaryIO, start: int, length: int, allowance: Allowance) -> Pieces:
    """The content of a raw deflate stream, as deflated data sets are."""
    return inflated(packed(stream, start, length), Deflate(RAW), allowance)


def unzipped(stream: BinaryIO, entry: zipfile.ZipInfo, allowance: Allowance) -> Pieces:
    """A member of a ZIP, whose size and checksum are compared at its end."""
    with allowance.parsing(Reason.ARCHIVE_CORRUPT, "unpack"):
        engine = _engine(entry.compress_type)
        source = packed(stream, _data_start(stream, entry.header_offset), entry.compress_size)
    size = 0
    checksum = 0
    for piece in inflated(source, engine, allowance, entry.file_size):
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if size != entry.file_size or checksum != entry.CRC:
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")


def _data_start(stream: BinaryIO, header: int) -> int:
    """Where a member's bytes begin, behind its own header at `header`."""
    stream.seek(header)
    magic, n_name, n_extra = struct.unpack("<4s22xHH", stream.read(30))
    if magic != b"PK\x03\x04":
        raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")
    return header + 30 + int(n_name) + int(n_extra)


def _engine(method: int) -> Inflater:
    """The decompressor of a ZIP's method. Raises StudyError ARCHIVE_CORRUPT for one that is not known."""
    if method == zipfile.ZIP_STORED:
        return Stored()
    if method == zipfile.ZIP_DEFLATED:
        return Deflate(RAW)
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor()
    if method == zipfile.ZIP_LZMA:
        return Lzma()
    raise StudyError(Reason.ARCHIVE_CORRUPT, "unpack")


class Lzma:
    """The LZMA of a ZIP: its properties stand before the stream (APPNOTE.TXT 5.8.8)."""

    def __init__(self) -> None:
        self._head = b""
        self._engine: lzma.LZMADecompressor | None = None

    @property
    def eof(self) -> bool:
        """The packed stream has ended."""
        return self._engine is not None and self._engine.eof

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out before something goes in."""
        return self._engine is None or self._engine.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more."""
        if self._engine is None:
            self._head += data
            if len(self._head) < 9:
                return b""
            self._engine = _lzma(self._head)
            data = self._head[9:]
        return self._engine.decompress(data, max_length)


def _lzma(head: bytes) -> lzma.LZMADecompressor:
    """The engine for the two bytes of version, two of length, and five of properties."""
    if head[2:4] != b"\x05\0":
        raise lzma.LZMAError("other properties than LZMA has")
    rest, lc = divmod(head[4], 9)
    pb, lp = divmod(rest, 5)
    size = int.from_bytes(head[5:9], "little")
    if size > MAX_DICTIONARY:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "unpack")
    form = {"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": lc, "lp": lp, "pb": pb}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[form])
