"""The workers: processes that screen what the queue gives, one upload each at a time, and are replaced when they die."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import sys
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.records import StudyResult
from pipeline.run.run_toml import Network
from pipeline.server.answer import Begin, News, Outcome, WorkerTask
from pipeline.server.metrics import Metrics
from pipeline.server.problems import FAILURES
from pipeline.server.queue import Queue, Row
from pipeline.server.settings import Settings

log = logging.getLogger(__name__)
LONGEST_LINE = 256 << 20
"""Bytes of a worker's news: the slices of one result."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between the death of a worker that was not ready yet and the next."""


@dataclass(slots=True)
class Now:
    """What is known of a running study before it is answered."""

    stage: str = ""
    results: list[StudyResult] = field(default_factory=list)
    why: str = ""


class Board:
    """Where all wait for news of any study."""

    def __init__(self) -> None:
        self.now: dict[str, Now] = {}
        self.draining = False
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Wake who waits."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self, at_most_s: float) -> None:
        """Wait for any news, or so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), at_most_s)


class Crew:
    """The workers of one server."""

    def __init__(self, settings: Settings, queue: Queue, board: Board, metrics: Metrics) -> None:
        self._settings = settings
        self._queue = queue
        self._board = board
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.networks: list[Network] = []
        self.n_ready = 0

    async def start(self) -> None:
        """Start the workers; returns when the first is ready. Raises ConfigurationError where it refuses."""
        process = await self._started()
        await self._ready(process)
        self._tasks.append(asyncio.create_task(self._serve(process)))
        self._tasks += [asyncio.create_task(self._serve(None)) for _ in range(self._settings.workers - 1)]

    async def stop(self, patience_s: float) -> None:
        """Running studies have so long to end; then they wait on the disk for the next start."""
        _, late = await asyncio.wait(self._tasks, timeout=patience_s)
        for task in late:
            task.cancel()
        for id_, process in list(self._processes.items()):
            self._kill(process)
            self._queue.put_back(id_)
        await asyncio.gather(*late, return_exceptions=True)

    def cancel(self, id_: str, why: str) -> None:
        """End the worker that is at `id_`: nothing else ends what it does."""
        if id_ in self._processes:
            self._board.now[id_].why = why
            self._kill(self._processes[id_])

    async def _serve(self, process: asyncio.subprocess.Process | None) -> None:
        """One worker after the other, until the server drains."""
        pause_s = PAUSE_S
        while not self._board.draining:
            try:
                if process is None:
                    process = await self._started()
                    await self._ready(process)
                await self._work(process)
                pause_s = PAUSE_S
            except (ConfigurationError, EOFError):
                log.error("a worker died before it was ready; the next in %.0f s", pause_s)  # noqa: TRY400  no fault of ours
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except (OSError, sqlite3.Error) as error:  # the spool's disk: what ran is done again by the next start
                log.error("storage: %s", type(error).__name__)  # noqa: TRY400  its message holds a path
                await asyncio.sleep(LONGEST_PAUSE_S)
            finally:
                if process is not None:
                    self._kill(process)
            process = None

    async def _started(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipeline.server.worker", stdin=pipe, stdout=pipe, limit=LONGEST_LINE, start_new_session=True
        )
        settings = self._settings
        config = str(settings.config or "")
        key = str(settings.key_file or "")
        await _send(process, Begin([str(one) for one in settings.weights], config, key))
        return process

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            news = await _heard(process)
        except (EOFError, asyncio.CancelledError):
            self._kill(process)
            raise
        if news.kind == "refused":
            raise ConfigurationError(news.text)
        self.networks = news.networks
        self.n_ready += 1

    async def _work(self, process: asyncio.subprocess.Process) -> None:
        """Give the worker uploads until it dies or the server drains."""
        try:
            while not self._board.draining and process.returncode is None:
                row = self._queue.take()
                if row is None:
                    await self._board.change(1.0)
                elif not await self._screened(process, row):
                    return
        finally:
            self.n_ready -= 1

    async def _screened(self, process: asyncio.subprocess.Process, row: Row) -> bool:
        """One upload, to its answer; whether the worker lives."""
        now = self._board.now[row.id] = Now()
        self._processes[row.id] = process
        self._board.changed()
        try:
            async with asyncio.timeout(self._settings.study_s):
                await _send(process, WorkerTask(str(self._queue.home(row.id) / "upload"), str(self._queue.out(row))))
                outcome = await self._outcome(process, now)
        except TimeoutError:
            outcome = Outcome("TIME_LIMIT", FAILURES["TIME_LIMIT"])
        except (EOFError, ConnectionError):
            outcome = None
        finally:
            self._processes.pop(row.id, None)
        self._settle(row, now, outcome)
        return outcome is not None and outcome.code != "TIME_LIMIT"

    def _settle(self, row: Row, now: Now, outcome: Outcome | None) -> None:
        """The study is answered, or tried again, or was cancelled meanwhile."""
        if now.why == "cancelled":
            self._metrics.answered("cancelled", {})
        elif outcome is None:
            log.error("a worker died at its work")
            self._metrics.worker_deaths += 1
            row = self._queue.lost(row.id)
            self._tell(row, {})
        else:
            self._tell(self._queue.finish(row.id, outcome), outcome.seconds)
        self._board.now.pop(row.id, None)
        self._board.changed()

    def _tell(self, row: Row, seconds: dict[str, float]) -> None:
        if not row.is_final:
            return
        outcome = msgspec.json.decode(row.outcome, type=Outcome)
        self._metrics.answered(outcome.code or "done", seconds)
        said = ", ".join(f"{one.study_key} {one.status} {one.reason}".strip() for one in outcome.results)
        log.info("answered in %.2f s: %s", row.ended - row.created, outcome.code or said)

    async def _outcome(self, process: asyncio.subprocess.Process, now: Now) -> Outcome:
        while True:
            news = await _heard(process)
            if news.kind == "stage":
                now.stage = news.text
            elif news.result is not None:
                now.results.append(news.result)
            elif news.outcome is not None:
                return news.outcome
            self._board.changed()

    @staticmethod
    def _kill(process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)


async def _send(process: asyncio.subprocess.Process, line: msgspec.Struct) -> None:
    if process.stdin is None:
        raise ValueError("a worker has an input")
    process.stdin.write(msgspec.json.encode(line) + b"\n")
    await process.stdin.drain()


async def _heard(process: asyncio.subprocess.Process) -> News:
    """The worker's next news. Raises EOFError where it died."""
    if process.stdout is None:
        raise ValueError("a worker has an output")
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return msgspec.json.decode(line, type=News)
