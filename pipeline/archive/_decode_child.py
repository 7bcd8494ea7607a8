"""The decode child: a plain process that imports numpy and decoders only, and may die without harm to its rank.

Memory shared with its rank, whose descriptor is its argument, holds the frame; standard input says (uint32 length, uint8 length
of the syntax, syntax). The pixels take the frame's place, and it answers (uint8 how, uint8 kind of number, uint32 rows, uint32
columns). How is FAILED (the error's class name lies there, as long as `rows`), SOUND, or DOUBTED: the decoder's library
complained, but decoded it.
"""

import ctypes
import mmap
import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable

import imagecodecs
import jpeg_ls
import numpy as np

PR_SET_PDEATHSIG = 1
MEMORY_BYTES = 4 << 30
COLOURED, MOST_MARKS = 40, 0.05
"""Difference of the colours of a mark, and the share of coloured pixels from which on a whole picture is tinted."""
SAID_BYTES = 1 << 20
FAILED = 0
SOUND = 1
DOUBTED = 2
KINDS = ("|u1", "<u2", "<i2", "<i4")
"""How pixels may lie in memory, as the rank knows it: as decoded, or as the last."""
WARNINGS = 2
"""How much OpenJPEG says."""
SIZE = b"\xff\x51"
CODING = b"\xff\x52"
TILE = b"\xff\x90"
DATA = b"\xff\x93"
CUTTING = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
ENDS_EARLY = re.compile(rb"(\d+) synthesized")
MAX_CUT = 16
"""Bytes by which OpenJPEG goes on behind a code-block that a lossy encoder has cut; a few are met among sound ones."""
MAX_TRIMMED = 5
"""The same of a lossless encoder, which, as Kakadu does, leaves out last bytes that every decoder puts there by itself."""
KNOWN_SLIP = b"TPsot==TNsot"
"""Of an older encoder's count of tile parts, which OpenJPEG puts right; no pixel is wrong."""
ENDS_FORETOLD, OTHER_ENDS = 0x10, 0x45
"""Code-block styles of JPEG 2000: where a block's data ends can be told from it; and those in which it cannot."""


def decode(syntax: str, frame: bytes) -> "np.ndarray":
    """One compressed frame -> its words [rows, columns]. Raises UnknownSyntaxError."""
    decoder = DECODERS.get(syntax)
    if decoder is None:
        raise UnknownSyntaxError
    return np.asarray(decoder(frame))


class UnknownSyntaxError(Exception):
    """No decoder is here for it; its name is the answer."""


class UnequalPlanesError(Exception):
    """A segment of RLE holds more or fewer bytes than another: it is damaged."""


def decode_jpeg_ls(frame: bytes) -> "np.ndarray":
    """JPEG-LS, lossless or near."""
    return np.asarray(jpeg_ls.decode(np.frombuffer(frame, np.uint8)))


def decode_jpeg_2000(frame: bytes) -> "np.ndarray":
    """JPEG 2000, its decoder made to look whether every code-block ends where its data does: damaged ones do not."""
    return np.asarray(imagecodecs.jpeg2k_decode(with_ends_foretold(frame), verbose=WARNINGS))


def with_ends_foretold(frame: bytes) -> bytes:
    """The codestream with the style set in which OpenJPEG compares the ends; it decodes to the same."""
    place = frame.find(b"\xff\x4f" + SIZE) + 2
    while place >= 2 and frame[place : place + 2] not in (CODING, TILE, DATA, b""):
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    at = place + 12
    if frame[place : place + 2] != CODING or len(frame) <= at or frame[at] & OTHER_ENDS:
        return frame
    return frame[:at] + bytes([frame[at] | ENDS_FORETOLD]) + frame[at + 1 :]


def decode_rle(frame: bytes) -> "np.ndarray":
    """DICOM RLE: one PackBits segment a byte plane, most significant first; shaped by the parent."""
    n_segments, *offsets = struct.unpack("<16I", frame[:64])
    ends = [*offsets[1:n_segments], len(frame)]
    planes = [
        np.frombuffer(imagecodecs.packbits_decode(frame[start:end]), np.uint8)
        for start, end in zip(offsets[:n_segments], ends, strict=True)
    ]
    if max(map(len, planes)) > min(map(len, planes)) + 1:  # zeros that make a segment even may look like one byte more
        raise UnequalPlanesError
    total = np.zeros(min(map(len, planes)), np.int32)
    for plane in planes:
        total = (total << 8) | plane[: len(total)]
    return total[None]


def decode_picture(frame: bytes) -> "np.ndarray":
    """An exported JPEG or PNG as 8-bit grey; of a coloured mark, -1 less its grey."""
    decoder = imagecodecs.png_decode if frame[:4] == b"\x89PNG" else imagecodecs.jpeg_decode
    values = np.asarray(decoder(frame))
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)
    if values.ndim == 2:
        return values
    if values.shape[2] < 3:
        return values[..., 0]
    colours = values[..., :3]
    grey = np.rint(colours @ np.array([0.299, 0.587, 0.114])).astype(np.int32)
    marks = colours.max(axis=2) - colours.min(axis=2) > COLOURED
    return np.asarray(np.where(marks, -1 - grey, grey) if marks.mean() < MOST_MARKS else grey)


DECODERS: "dict[str, Callable[[bytes], np.ndarray]]" = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg_decode,
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg_decode,
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.80": decode_jpeg_ls,
    "1.2.840.10008.1.2.4.81": decode_jpeg_ls,
    "1.2.840.10008.1.2.4.90": decode_jpeg_2000,
    "1.2.840.10008.1.2.4.91": decode_jpeg_2000,
    "1.2.840.10008.1.2.4.201": decode_jpeg_2000,
    "1.2.840.10008.1.2.4.202": decode_jpeg_2000,
    "1.2.840.10008.1.2.4.203": decode_jpeg_2000,
    "1.2.840.10008.1.2.5": decode_rle,
    "picture": decode_picture,
}
"""By transfer syntax: what the parent's syntax.COMPRESSED lists, and a picture."""


def main() -> None:
    """Answer until standard input ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (SAID_BYTES, SAID_BYTES))
    memory = mmap.mmap(int(sys.argv[1]), 0)
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(1), "wb")
    said = os.memfd_create("said")
    for descriptor in (1, 2):  # what a decoder's library prints must not pass for an answer
        os.dup2(said, descriptor)
    while head := source.read(5):
        length, n_syntax = struct.unpack("<IB", head)
        syntax = source.read(n_syntax).decode()
        try:
            kind, rows, columns = placed(decode(syntax, memory[:length]), memory)
            how = SOUND
        except BaseException as error:  # noqa: BLE001  a decoder's panic is no Exception
            name = type(error).__name__.encode()
            memory[: len(name)] = name
            how, kind, rows, columns = FAILED, 0, len(name), 0
        how = DOUBTED if complained(said, syntax) and how == SOUND else how
        sink.write(struct.pack("<BBII", how, kind, rows, columns))
        sink.flush()


def placed(values: "np.ndarray", memory: mmap.mmap) -> tuple[int, int, int]:
    """Copy an image into `memory`: (kind of number, rows, columns). Raises ValueError where it is not one grey plane."""
    rows, columns = values.shape
    kind = KINDS.index(values.dtype.str) if values.dtype.str in KINDS else len(KINDS) - 1
    there = np.frombuffer(memory, KINDS[kind], rows * columns).reshape(rows, columns)
    np.copyto(there, values, casting="unsafe")
    return kind, rows, columns


def complained(said: int, syntax: str) -> bool:
    """Whether anything was printed since the last time that means damage."""
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
    lines = os.pread(said, SAID_BYTES, 0).splitlines()
    os.ftruncate(said, 0)
    os.lseek(said, 0, os.SEEK_SET)
    return any(not is_harmless(line, syntax) for line in lines)


def is_harmless(line: bytes, syntax: str) -> bool:
    """Whether a warning is of a code-block without its last bytes, as sound ones are, or of a slip that changes no pixel."""
    early = ENDS_EARLY.search(line)
    limit = MAX_CUT if syntax in CUTTING else MAX_TRIMMED
    return KNOWN_SLIP in line or (early is not None and int(early[1]) < limit)


if __name__ == "__main__":
    main()
