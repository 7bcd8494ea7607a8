"""A CSV as spreadsheets write it -> its rows: commas, semicolons or tabs, UTF-8 or UTF-16, headings in any case.

Cells lose the blanks around them, and the wrapping (="0012") that keeps a spreadsheet from eating zeros.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from pathlib import Path

from pipeline.errors import ConfigurationError

SEPARATORS = ",;\t"
WRAPPED = re.compile(r'="(.*)"')
SAID = re.compile(r"sep=(.)", re.IGNORECASE)
Rows = list[tuple[int, dict[str, str]]]


def read_table(path: Path, what: str) -> Rows:
    """(line, cells by heading) of every row that is not blank. Raises ConfigurationError, naming the line where it can."""
    lines = _text(path, what).splitlines(keepends=True)
    said = SAID.fullmatch(lines[0].strip()) if lines else None
    skipped = int(said is not None)
    heading = lines[skipped] if len(lines) > skipped else ""
    separator = said[1] if said else max(SEPARATORS, key=heading.count)
    reader = csv.reader(lines[skipped:], delimiter=separator)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num + skipped, [_cell(cell) for cell in row]) for row in reader]
    except csv.Error as error:
        raise ConfigurationError(f"cannot read {what} {path}, line {reader.line_num + skipped}: {error}") from error
    return [(line, dict(zip(names, row, strict=False))) for line, row in rows if any(row)]


def _text(path: Path, what: str) -> str:
    try:
        data = path.read_bytes()
        is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"cannot read {what} {path}: byte {error.start} is no UTF-8; save it as CSV in UTF-8"
        ) from error


def _cell(text: str) -> str:
    """The cell's text in normal form C, as patients' IDs are kept."""
    stripped = text.strip()
    wrapped = WRAPPED.fullmatch(stripped)
    return unicodedata.normalize("NFC", wrapped[1].strip() if wrapped else stripped)
