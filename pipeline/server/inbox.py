"""Instances that a PACS sends one by one, gathered into studies: one is queued when nothing of it has come for `settle_s`.

An instance that comes twice counts once, the later one. One that comes after its study was queued begins the study anew: what
is screened then is what came then. Which study an instance is of, the spool knows by a pseudonym.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.archive import FoundFile, Header, scan_file
from pipeline.pseudonym import pseudonym
from pipeline.server.crew import Board
from pipeline.server.queue import Queue

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Taken:
    """An instance that was taken, and the id of the study that it joined."""

    sop_class: str
    sop_uid: str
    id: str


class Inbox:
    """The studies that are still coming in. Safe to use from one thread at a time: the event loop's."""

    def __init__(self, queue: Queue, board: Board, key: bytes, settle_s: float) -> None:
        self._queue = queue
        self._board = board
        self._key = key
        self._settle_s = settle_s
        shutil.rmtree(queue.incoming, ignore_errors=True)
        queue.incoming.mkdir(mode=0o700)
        self._last = dict.fromkeys(queue.receiving().values(), time.monotonic())

    def new_file(self) -> Path:
        """Where an instance may be written while it comes."""
        return self._queue.incoming / secrets.token_hex(16)

    def take(self, path: Path) -> Taken | None:
        """The instance at `path` joins its study; None, and it is deleted, where it is no DICOM image or object."""
        header = _header(path)
        if header is None:
            path.unlink()
            return None
        study = pseudonym(self._key, "study", header.study_uid)
        id_ = self._queue.receiving().get(study) or self._begin(study)
        folder = self._queue.home(id_) / "upload"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = hashlib.sha256((header.sop_uid or path.name).encode()).hexdigest()[:32]
        n_bytes = path.stat().st_size
        path.replace(folder / name)
        self._queue.grown(id_, n_bytes)
        self._last[id_] = time.monotonic()
        return Taken(header.sop_class, header.sop_uid, id_)

    def _begin(self, study: str) -> str:
        id_ = self._queue.new_id()
        self._queue.begin(id_, study)
        return id_

    async def settle(self) -> None:
        """Queue the studies of which nothing comes any more; for ever."""
        while True:
            now = time.monotonic()
            for id_, last in list(self._last.items()):
                if now - last >= self._settle_s:
                    del self._last[id_]
                    self._queue.settled(id_)
                    self._board.changed()
            await asyncio.sleep(LOOK_EVERY_S)


def _header(path: Path) -> Header | None:
    found = scan_file(path.parent, FoundFile(path.name, path.stat().st_size, path.stat().st_mtime_ns))
    headers = [header for record in found.records for header in record.headers]
    return headers[0] if headers and headers[0].study_uid else None
