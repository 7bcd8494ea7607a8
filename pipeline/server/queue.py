"""The queue on disk: SQLite in the spool, first come first served, bounded; what a killed server left goes on from it.

The spool is the owner's alone (0700). A study's folder in it is named after a digest of its id, which is a secret of who sent
it. `upload/` in it goes when the study is answered, all of it when its time is over.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.errors import LOST_LIMIT, ConfigurationError
from pipeline.files import storage_error
from pipeline.run.lock import Held, hold
from pipeline.server.answer import FINAL, Outcome, State
from pipeline.server.problems import FAILURES, Problem

ID_BYTES = 24
TABLE = """
CREATE TABLE IF NOT EXISTS studies (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, ticket TEXT UNIQUE NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, started REAL NOT NULL DEFAULT 0, ended REAL NOT NULL DEFAULT 0, starts INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0, n_files INTEGER NOT NULL, n_bytes INTEGER NOT NULL, outcome BLOB NOT NULL DEFAULT '{}',
    returned TEXT NOT NULL DEFAULT '', study TEXT NOT NULL DEFAULT ''
)
"""
COLUMNS = "number, id, ticket, state, created, started, ended, starts, lost, n_files, n_bytes, outcome, returned"


@dataclass(frozen=True, slots=True)
class Row:
    """One study of the queue; `starts` counts workers that took it, `lost` those that died over it."""

    number: int
    id: str
    ticket: str
    state: State
    created: float
    started: float
    ended: float
    starts: int
    lost: int
    n_files: int
    n_bytes: int
    outcome: bytes
    returned: str

    @property
    def is_final(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in FINAL


class Queue:
    """The spool of one server, held while it is open. A context manager."""

    def __init__(self, spool: Path, *, max_queued: int, keep_s: float) -> None:
        """Raises ConfigurationError where another server holds the spool, StorageError where it cannot be written."""
        self._spool = spool
        self._max_queued = max_queued
        self.keep_s = keep_s
        try:
            self._held: Held = hold(spool, "to serve")
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace("--out", "--spool")) from error
        try:
            spool.chmod(0o700)
            self._base = sqlite3.connect(spool / "queue.sqlite", isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA secure_delete = ON")
            self._base.execute(TABLE)
        except OSError as error:
            raise storage_error(error, spool) from error
        self._take_up()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._held.close()

    def _take_up(self) -> None:
        """What ran when the server died is done again; folders of no study, half uploads, are deleted."""
        self._base.execute("UPDATE studies SET state = 'queued', started = 0 WHERE state = 'running'")
        wanted = {self.home(row.id).name for row in self._rows("1")}
        for path in self._spool.glob("studies/*"):
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def new_id(self) -> str:
        """An id that nobody guesses."""
        return secrets.token_urlsafe(ID_BYTES)

    @property
    def incoming(self) -> Path:
        """Where instances are written while they come."""
        return self._spool / "incoming"

    def home(self, id_: str) -> Path:
        """The study's folder."""
        return self._spool / "studies" / hashlib.sha256(id_.encode()).hexdigest()[:32]

    def out(self, row: Row) -> Path:
        """The run's folder of a study's present start."""
        return self.home(row.id) / f"run-{row.starts}"

    def check_room(self) -> None:
        """Raises Problem QUEUE_FULL."""
        if self.counts()["queued"] >= self._max_queued:
            raise Problem("QUEUE_FULL")

    def add(self, id_: str, n_files: int, n_bytes: int) -> None:
        """The upload of `id_` is whole: it waits. Raises Problem QUEUE_FULL, EMPTY_UPLOAD."""
        self.check_room()
        if not n_files:
            raise Problem("EMPTY_UPLOAD")
        values = (id_, secrets.token_urlsafe(ID_BYTES), time.time(), n_files, n_bytes)
        columns = "id, ticket, state, created, n_files, n_bytes"
        self._base.execute(f"INSERT INTO studies ({columns}) VALUES (?, ?, 'queued', ?, ?, ?)", values)  # noqa: S608  ours

    def begin(self, id_: str, study: str) -> None:
        """A study whose instances come one by one; `study` is its pseudonym."""
        self.check_room()
        self._receive(id_, study, 0, 0)

    def begin_upload(self, id_: str, n_bytes: int) -> None:
        """A study of one file, which comes in parts. Raises Problem QUEUE_FULL."""
        counts = self.counts()
        if counts["queued"] + counts["receiving"] >= self._max_queued:
            raise Problem("QUEUE_FULL")
        self._receive(id_, "", 1, n_bytes)

    def _receive(self, id_: str, study: str, n_files: int, n_bytes: int) -> None:
        values = (id_, secrets.token_urlsafe(ID_BYTES), time.time(), n_files, n_bytes, study)
        columns = "id, ticket, state, created, n_files, n_bytes, study"
        self._base.execute(f"INSERT INTO studies ({columns}) VALUES (?, ?, 'receiving', ?, ?, ?, ?)", values)  # noqa: S608  ours

    def receiving(self) -> dict[str, str]:
        """Pseudonym -> id of the studies whose instances are still coming in."""
        found = self._base.execute("SELECT study, id FROM studies WHERE state = 'receiving' AND study != ''")
        return dict(found.fetchall())

    def grown(self, id_: str, n_bytes: int) -> None:
        """One more instance came."""
        self._set(id_, "n_files = n_files + 1, n_bytes = n_bytes + ?", n_bytes)

    def settled(self, id_: str) -> None:
        """No more comes: the study waits to be screened."""
        self._base.execute("UPDATE studies SET state = 'queued' WHERE id = ? AND state = 'receiving'", (id_,))

    def to_return(self) -> list[Row]:
        """Answered studies that a PACS sent, and that have not been sent back."""
        return self._rows("state = 'done' AND study != '' AND returned = ''")

    def find(self, id_: str) -> Row:
        """Raises Problem NO_SUCH_STUDY."""
        return self._one("id = ?", id_)

    def find_upload(self, id_: str) -> Row:
        """The study that is or was uploaded, by no PACS. Raises Problem NO_SUCH_STUDY."""
        return self._one("id = ? AND study = '' AND state != 'cancelled'", id_)

    def by_ticket(self, ticket: str) -> Row:
        """The study whose panel this is. Raises Problem NO_SUCH_STUDY."""
        return self._one("ticket = ?", ticket)

    def _one(self, where: str, *values: object) -> Row:
        rows = self._rows(where, *values)
        if not rows:
            raise Problem("NO_SUCH_STUDY")
        return rows[0]

    def _rows(self, where: str, *values: object) -> list[Row]:
        found = self._base.execute(f"SELECT {COLUMNS} FROM studies WHERE {where} ORDER BY number", values)  # noqa: S608  ours
        return [Row(*values) for values in found.fetchall()]

    def place(self, row: Row) -> int:
        """How many are to be taken until this one is, itself counted; 0 where it does not wait."""
        if row.state != "queued":
            return 0
        ahead = self._base.execute("SELECT count(*) FROM studies WHERE state = 'queued' AND number <= ?", (row.number,))
        return int(ahead.fetchone()[0])

    def counts(self) -> Counter[str]:
        """How many studies are in each state."""
        return Counter(dict(self._base.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall()))

    def take(self) -> Row | None:
        """The next study, which is now running."""
        rows = self._rows("state = 'queued' AND number = (SELECT min(number) FROM studies WHERE state = 'queued')")
        if not rows:
            return None
        self._set(rows[0].id, "state = 'running', started = ?, starts = starts + 1", time.time())
        return self.find(rows[0].id)

    def finish(self, id_: str, outcome: Outcome) -> Row:
        """The study is answered; its upload goes, and what starts that came to nothing left."""
        state = "failed" if outcome.code else "done"
        self._set(id_, "state = ?, ended = ?, outcome = ?", state, time.time(), msgspec.json.encode(outcome))
        row = self.find(id_)
        for path in self.home(id_).glob("*"):
            if path != self.out(row):
                shutil.rmtree(path, ignore_errors=True)
        return row

    def lost(self, id_: str) -> Row:
        """The worker died over it: it is tried again, LOST_LIMIT times in all."""
        self._set(id_, "state = 'queued', started = 0, lost = lost + 1")
        row = self.find(id_)
        if row.lost < LOST_LIMIT:
            return row
        return self.finish(id_, Outcome("WORKER_LOST", FAILURES["WORKER_LOST"]))

    def put_back(self, id_: str) -> None:
        """The server stops: the study waits for its next start."""
        self._set(id_, "state = 'queued', started = 0")

    def cancel(self, row: Row) -> None:
        """A waiting or running study is not wanted any more; an answered one is deleted."""
        if row.is_final:
            self._delete(row.id)
            return
        self._set(row.id, "state = 'cancelled', ended = ?", time.time())
        shutil.rmtree(self.home(row.id), ignore_errors=True)

    def set_returned(self, id_: str, said: str) -> None:
        """What became of sending its objects on."""
        self._set(id_, "returned = ?", said)

    def delete_old(self) -> int:
        """Delete what has been kept long enough, and uploads that were begun so long ago and are not whole; how many."""
        over = time.time() - self.keep_s
        rows = [row for row in self._rows("ended > 0 AND ended < ?", over) if row.is_final]
        rows += self._rows("state = 'receiving' AND study = '' AND created < ?", over)
        for row in rows:
            self._delete(row.id)
        return len(rows)

    def _delete(self, id_: str) -> None:
        self._base.execute("DELETE FROM studies WHERE id = ?", (id_,))
        shutil.rmtree(self.home(id_), ignore_errors=True)

    def _set(self, id_: str, what: str, *values: object) -> None:
        self._base.execute(f"UPDATE studies SET {what} WHERE id = ?", (*values, id_))  # noqa: S608  ours
