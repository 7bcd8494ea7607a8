"""Studies of the manifest that is about to be replaced: one whose files are what they were is taken over, line by line.

A study's line depends on what was read of its files (`sources` of its head), and on key, settings and code (`made_by`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
from os import SEEK_END
from pathlib import Path

import msgspec

import pipeline
from pipeline.run.manifest import Head, Sums, line_digest
from pipeline.run.paths import MANIFEST, MANIFEST_HEADS


class EarlierStudies:
    """The studies of the manifest that is there, to be asked for in the order of their keys; a context manager.

    None is known where there is no manifest, or it was made by something else. One line is in memory at a time.
    """

    def __init__(self, private: Path, made_by: str) -> None:
        self._files = ExitStack()
        self._heads: Iterator[Head] = iter(())
        with suppress(OSError, ValueError):
            self._manifest = self._files.enter_context((private / MANIFEST).open("rb"))
            heads = self._files.enter_context((private / MANIFEST_HEADS).open("rb"))
            sums = msgspec.json.decode(heads.readline(), type=Sums)
            if (sums.made_by, sums.length) == (made_by, self._manifest.seek(0, SEEK_END)):
                self._heads = map(msgspec.json.Decoder(Head).decode, heads)
        self._head = self._next()

    def __enter__(self) -> EarlierStudies:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def line(self, study_key: str, sources: str) -> bytes | None:
        """The line of a study that was made of these sources; None where it must be made anew."""
        while self._head and self._head.study_key < study_key:
            self._head = self._next()
        head = self._head
        if not sources or not head or (head.study_key, head.sources) != (study_key, sources):
            return None
        self._manifest.seek(head.offset)
        line = self._manifest.read(head.length)
        return line if line_digest(line) == head.digest else None

    def _next(self) -> Head | None:
        try:
            return next(self._heads, None)
        except (OSError, ValueError):  # damaged: the rest is made anew
            return None


@cache
def code_digest(modules: tuple[str, ...]) -> str:
    """Of the files of the program that these patterns name."""
    root = Path(pipeline.__file__).parent
    paths = sorted(path for pattern in modules for path in root.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
