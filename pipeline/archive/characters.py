"""Bytes of a DICOM text element -> text, by the file's SpecificCharacterSet, code extensions (ISO 2022) included.

PS3.3 C.12.1.1.2 names the sets, PS3.5 6.1.2.5 says how escape sequences change them within a value. Text that cannot be decoded
stands for its bytes, one character a byte behind a NUL, which no decoded text begins with: nothing is lost and nothing guessed.
"""

from __future__ import annotations

import re
import unicodedata

UNDECODED = "\0"
STAND_ALONE = {"192": "utf-8", "8": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
"""Sets without code extensions; "UTF-8" is no defined term, but what it means is plain."""
NAME = re.compile(r"(GB18030|GBK|\d+)$")
SETS = {
    "6": "ascii", "13": "shift_jis", "100": "latin-1", "101": "iso8859-2", "109": "iso8859-3", "110": "iso8859-4",
    "126": "iso8859-7", "127": "iso8859-6", "138": "iso8859-8", "144": "iso8859-5", "148": "iso8859-9", "203": "iso8859-15",
    "166": "tis-620", "149": "euc_kr", "58": "gb2312", "87": "ascii", "159": "ascii",
}  # fmt: skip
"""By the number behind ISO_IR or ISO 2022 IR: what decodes bytes above 127 where no escape sequence has spoken."""
LOW = {b"(B": "ascii", b"(J": "shift_jis", b"$B": "iso2022_jp", b"$(D": "iso2022_jp_2"}
"""Escape sequences that say how bytes below 128 are read."""
HIGH = {
    b")I": "shift_jis", b"-A": "latin-1", b"-B": "iso8859-2", b"-C": "iso8859-3", b"-D": "iso8859-4", b"-F": "iso8859-7",
    b"-G": "iso8859-6", b"-H": "iso8859-8", b"-L": "iso8859-5", b"-M": "iso8859-9", b"-b": "iso8859-15", b"-T": "tis-620",
    b"$)C": "euc_kr", b"$)A": "gb2312",
}  # fmt: skip
"""Escape sequences that say how bytes above 127 are read."""
ESCAPE = re.compile(rb"\x1b(\$?[()\-][A-Za-z]|\$B)")
HALVES = re.compile(rb"([\x80-\xff]+)")
DELIMITER = re.compile(rb"[\\^=\t\n\f\r]")
"""Behind these the first set holds again."""
BLANKS = b" \0\t\r\n"


def decoded(value: bytes, character_set: bytes) -> str:
    """The text, in normal form C, without padding; text that cannot be decoded as UNDECODED and its bytes."""
    value = value.strip(BLANKS)
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        text = _by_sets(value, character_set)
    except UnicodeError:
        return UNDECODED + value.decode("latin-1")
    return unicodedata.normalize("NFC", text).strip(BLANKS.decode())


def _by_sets(value: bytes, character_set: bytes) -> str:
    """Raises UnicodeError where the sets that are named do not say what it means."""
    terms = [term.strip(" \0") for term in character_set.decode("latin-1").upper().split("\\")]
    if terms == [""]:
        return value.decode("ascii")
    named = NAME.search(terms[0] or "ISO_IR 6")
    first = named[1] if named else ""
    if first in STAND_ALONE:
        return value.decode(STAND_ALONE[first])
    if first not in SETS:
        raise UnicodeError("a character set that is not known")
    return _extended(value, SETS[first])


def _extended(value: bytes, first: str) -> str:
    """Text whose escape sequences change how its two halves are read."""
    low = "ascii"
    high = first
    pieces = ESCAPE.split(value)
    text = _piece(pieces[0], low, high, first)
    for escape, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        low = LOW.get(escape, low)
        high = HIGH.get(escape, high)
        if escape not in LOW and escape not in HIGH:
            raise UnicodeError("an escape sequence that is not known")
        text += _piece(piece, low, high, first)
    return text


def _piece(piece: bytes, low: str, high: str, first: str) -> str:
    """What stands between two escape sequences."""
    if b"\x1b" in piece:
        raise UnicodeError("an escape sequence that is not known")
    if low.startswith("iso2022"):
        return ((b"\x1b$B" if low == "iso2022_jp" else b"\x1b$(D") + piece).decode(low)
    text = ""
    for place, half in enumerate(HALVES.split(piece)):
        text += half.decode(high if place % 2 else low)
        if not place % 2 and DELIMITER.search(half):
            high = first
    return text
