"""One replica: a process that loads the networks once and screens what it is told, one upload after the other.

It reads lines from its standard input and writes news on its standard output. When the input ends, its server is gone, and it
ends at once. What a decoder or a network may do to it is its own death only.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipeline.config import read_config
from pipeline.errors import ConfigurationError, PipelineError, StorageError
from pipeline.mpi.world import Alone
from pipeline.records import Event, StudyResult
from pipeline.report.study_pages import write_study_pages
from pipeline.run.journal import decode, raw
from pipeline.run.paths import EXCLUSIONS, IMAGES, STUDIES
from pipeline.run.plan import Request
from pipeline.run.resume import last_records, results_of
from pipeline.run.weights import weights_of
from pipeline.screening import Kept, keep, run
from pipeline.server.answer import PAGES, Begin, File, News, Outcome, WorkerTask
from pipeline.server.logs import log_json
from pipeline.server.problems import FAILURES

log = logging.getLogger(__name__)
DICOM = "dicom"
PAGE = "page"
KEPT = (PAGES, IMAGES, DICOM, STUDIES, EXCLUSIONS)
"""What stays of a run's folder when it is answered; the rest would identify, or says nothing more."""


@dataclass(slots=True)
class Clock:
    """Seconds that each stage of an upload takes."""

    tell: Callable[[News], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _stage: str = ""
    _since: float = 0.0

    def begins(self, stage: str) -> None:
        """`stage` begins, and the one before is over."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._since, 4)
        self._stage = stage
        self._since = now
        if stage:
            self.tell(News("stage", stage))

    def afresh(self) -> None:
        """Another upload."""
        self.seconds = {}
        self._stage = ""


def main() -> None:
    """Serve the process that started this one."""
    log_json(logging.WARNING)
    news = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no news
    lines = _lines()

    def tell(one: News) -> None:
        news.write(msgspec.json.encode(one) + b"\n")

    begin = msgspec.json.decode(lines.get(), type=Begin)
    clock = Clock(tell)
    try:
        config = read_config(Path(begin.config) if begin.config else None)
        weights = tuple(map(weights_of, begin.weights))
        kept = keep(weights, config, clock.begins)
    except PipelineError as error:
        tell(News("refused", str(error)))
        return
    _warm()
    tell(News("ready", networks=kept.networks))
    while True:
        task = msgspec.json.decode(lines.get(), type=WorkerTask)
        request = Request(Path(task.archive), weights, Path(task.out), config, _key(begin), contact_sheet=True, report=False)
        tell(News("done", outcome=answer(request, kept, clock)))


def _warm() -> None:
    """Load now what the first study would wait for."""
    for name in ("pipeline.report.study_pages", "pipeline.report.dicom", "pipeline.run.gather"):
        with suppress(ImportError):
            import_module(name)


def _key(begin: Begin) -> Path | None:
    return Path(begin.key_file) if begin.key_file else None


def _lines() -> queue.Queue[bytes]:
    """The lines of standard input; at its end the process ends."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read(stream: BinaryIO) -> None:
        for line in stream:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, args=(sys.stdin.buffer,), daemon=True).start()
    return lines


def answer(request: Request, kept: Kept, clock: Clock) -> Outcome:
    """Screen one upload; whatever becomes of it is an outcome, and of its run's folder only `KEPT` stays."""
    clock.afresh()
    clock.begins("index")
    code = ""
    try:
        run(Alone(), request, in_hand=_tells_results(clock), kept=kept)
        clock.begins(PAGE)
        write_study_pages(request.out, request.out / PAGES)
        clock.begins(DICOM)
        _write_dicom(request)
    except PipelineError as error:
        code = _code(error)
        log.warning("a run ended early: %s", type(error).__name__)
    except Exception as error:  # noqa: BLE001  an answer too
        code = "INTERNAL_ERROR"
        log.error("unexpected: %s", frames_of(error))  # noqa: TRY400  its message may identify
    results = list(results_of(request.out))
    left_out = _left_out(request.out)
    clock.begins("")
    _strip(request.out)
    code = "" if results else code or "NO_CT"
    return Outcome(code, FAILURES.get(code, ""), kept.networks, results, left_out, _files(request.out), clock.seconds)


def frames_of(error: Exception) -> str:
    """Where it happened; see study/screener.py."""
    from pipeline.study.screener import frames_of

    return frames_of(error)


def _code(error: PipelineError) -> str:
    if isinstance(error, StorageError):
        return "STORAGE_FULL"
    return "NO_CT" if isinstance(error, ConfigurationError) else "INTERNAL_ERROR"


def _tells_results(clock: Clock) -> Callable[[Path | None, bytes], None]:
    """Each study's numbers are told as soon as they are journalled, before the page is made."""
    journals: list[Path] = []

    def in_hand(journal: Path | None, _: bytes) -> None:
        if journal is not None:
            journals[:] = [journal]
            return
        line = decode(journals[0].read_bytes().splitlines(keepends=True)[-1])
        clock.begins("write")
        if line is not None:
            clock.tell(News("result", result=line.result))

    return in_hand


def _left_out(out: Path) -> list[Event]:
    record = last_records(out).get("")
    line = decode(raw(record)) if record else None
    return list(line.found.events) if line and line.found else []


def _write_dicom(request: Request) -> None:
    """SR and SEG of every study that can have them, where the extra is installed."""
    try:
        from pipeline.report.dicom import write_dicom
    except ImportError:
        return
    scored: list[StudyResult] = [result for result in results_of(request.out) if result.probabilities]
    if scored:
        write_dicom(request.out, request.out / DICOM, studies=len(scored))


def _strip(out: Path) -> None:
    for path in out.iterdir() if out.is_dir() else ():
        if path.name in KEPT:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for pack in out.glob(f"{IMAGES}/*.pack"):
        pack.unlink(missing_ok=True)


def _files(out: Path) -> list[File]:
    found = [out / STUDIES, out / EXCLUSIONS, *sorted(out.glob(f"{IMAGES}/*.png")), *sorted(out.glob(f"{DICOM}/*/*.dcm"))]
    return [File(path.relative_to(out).as_posix(), path.stat().st_size) for path in found if path.is_file()]


if __name__ == "__main__":
    main()
