"""The spine: index -> deal -> (a study through its stages) -> record -> gather, over any number of ranks.

Root reads configuration, key, manifest and weights, and tells the others. Whatever happens to a study, it ends as one journal
record; a run killed at any moment goes on from its journals.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import Config, read_config
from pipeline.errors import TRANSIENT, Drained, PipelineError
from pipeline.gather import Summary, gather
from pipeline.indexing import index
from pipeline.launch import connect, local_rank
from pipeline.manifest import read_manifest
from pipeline.ranks import Alone, World, agreed, on_root, trouble_shared
from pipeline.records import DealtStudy
from pipeline.resume import Plan, Request, check_archive, describe, hold, plan, provenance, read_described, read_weights
from pipeline.source import Report, StudySource, journal_findings
from pipeline.store import Journal, Line, compact
from pipeline.study import Screener

log = logging.getLogger(__name__)


def screen(  # noqa: PLR0913  what a run can be asked, all with defaults
    archive: str | Path, weights: str | Path | Sequence[str | Path], out: str | Path, *,
    config: Config | str | Path | None = None, key_file: str | Path | None = None, refresh: bool = False,
    contact_sheet: bool = False,
) -> Summary | None:  # fmt: skip
    """Screen `archive` with the networks at `weights` into the run's folder `out`; the summary, on root (None elsewhere).

    `config` is a Config or a TOML file's path. Works alone or on every rank of an MPI program; called again on the same `out`
    it resumes. Raises PipelineError.
    """
    files = [weights] if isinstance(weights, str | Path) else weights
    settings = config if isinstance(config, Config) else read_config(Path(config) if config else None)
    request = Request(
        Path(archive),
        tuple(Path(file) for file in files),
        Path(out),
        settings,
        Path(key_file) if key_file else None,
        refresh=refresh,
        contact_sheet=contact_sheet,
    )
    return run(connect(root_computes_up_to=settings.run.root_computes_up_to), request)


def run(world: Alone | World, request: Request, begun: Callable[[Path], None] = lambda _: None) -> Summary | None:
    """Carry out `request` on all ranks; `begun` is told each rank's log file. Raises PipelineError, Drained when stopped."""
    held = on_root(world, lambda: hold(request.out))
    try:
        with asked_to_stop() as stop:
            made = msgspec.json.decode(agreed(world, lambda: msgspec.json.encode(plan(request))), type=Plan)
            begun(made.log(world.rank))
            if made.index_needed:
                _index(world, request, made.config, stop)
            networks = [
                agreed(world, partial(read_weights, path, network.sha256))
                for path, network in zip(request.networks, made.networks, strict=True)
            ]
            source = on_root(world, lambda: _open(request, made, world.size))
            _screen_dealt(world, made, networks, source, stop)
            return on_root(world, lambda: _finish(source, request.out))
    finally:
        if held is not None:
            held.close()


def gather_run(out: Path) -> Summary:
    """Rebuild the derived files of a run from its journals."""
    described = read_described(out)
    return gather(out, [network.column for network in described.networks], provenance(described))


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index holds."""

    n_files: int
    n_studies: int
    n_ready: int


def index_only(
    world: Alone | World, archive: Path, out: Path, config: Config, key_file: Path | None = None
) -> Indexed | None:  # fmt: skip
    """Index `archive` into the run's folder `out`, to be screened later; what was found, on root."""
    request = Request(archive, (), out, config, key_file)
    held = on_root(world, lambda: hold(out))
    try:
        with asked_to_stop() as stop:
            on_root(world, lambda: check_archive(archive))
            _index(world, request, config, stop)
            return on_root(world, lambda: _indexed(out))
    finally:
        if held is not None:
            held.close()


def _indexed(out: Path) -> Indexed:
    manifest = read_manifest(out / "private")
    n_ready = sum(entry.status == "READY" for entry in manifest.entries)
    return Indexed(manifest.heading.n_files, len(manifest.entries), n_ready)


def _index(world: Alone | World, request: Request, config: Config, stop: Callable[[], bool]) -> None:
    key = on_root(world, request.key)
    index(world, request.archive.absolute(), request.out / "private" if key else None, config, key, stop)


def _open(request: Request, made: Plan, size: int) -> StudySource:
    """Root's source of studies: what earlier attempts and indexing have settled is journalled and left out."""
    manifest = read_manifest(request.out / "private")
    describe(made, request.key(), manifest.sha256)
    done = compact(request.out)
    with Journal(made.journal(0).with_name("root.jsonl"), fsync_every_s=1.0) as journal:
        journal_findings(journal, manifest, done)
    return StudySource(manifest, done, size, made.config.run)


def _screen_dealt(
    world: Alone | World, made: Plan, networks: list[bytes], source: StudySource | None, stop: Callable[[], bool]
) -> None:
    """Every rank takes studies until none is left; trouble on one rank is every rank's."""
    sheets = Path(made.out) / "images" if made.contact_sheet else None
    outputs: Any = {"sheets": sheets, "pack": made.pack(world.rank)}
    made_screener = partial(Screener, Path(made.archive), made.config, networks, tick=world.tick, **outputs)
    pause = stop if source is None else lambda: stop() or source.broken
    with ExitStack() as stack:
        with trouble_shared(world):
            screener = stack.enter_context(made_screener(local_rank=local_rank()))
            journal = stack.enter_context(Journal(made.journal(world.rank), made.config.run.fsync_every_s))
        with trouble_shared(world), closing(world.deal(source, pause=pause)) as tasks:
            for task, done in tasks:
                line = screener.line(msgspec.json.decode(task, type=DealtStudy))
                journal.append(line)
                done(msgspec.json.encode(_report(line)))


def _report(line: Line) -> Report:
    result = line.result
    if result is None:
        raise ValueError("a study's line holds its result")
    transient = result.status == "FAILED" and result.reason in TRANSIENT
    return Report(result.study_key, result.status, result.reason, line.tries, transient)


def _finish(source: StudySource | None, out: Path) -> Summary:
    """Root gathers, where the run came to its end."""
    if source is None:
        raise ValueError("root has the source")
    source.progress.close()
    if source.broken:
        raise PipelineError("stopped: too many studies ended in INTERNAL_ERROR; see logs/, then start the same command again")
    if not source.finished:
        raise Drained("stopped early as asked; start the same command again to go on")
    summary = gather_run(out)
    _show(out)
    return summary


def _show(out: Path) -> None:
    """Make the report. It is derived and can be made again: whatever goes wrong with it, the run is complete."""
    from pipeline.report import write_report

    try:
        write_report(out)
    except Exception as error:  # noqa: BLE001  see above
        log.warning("the report could not be made (%s): `drenet report %s` says why", type(error).__name__, out.name)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A function that is true once the process was asked to stop (USR1, TERM); earlier handlers come back afterwards."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
