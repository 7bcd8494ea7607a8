"""The spine: index -> deal -> (a study through its stages) -> record -> gather, over any number of ranks.

Root reads configuration, key, manifest and weights, and tells the others. Whatever happens to a study, it ends as one journal
record; a run killed at any moment goes on from its journals.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.config import Config, read_config
from pipeline.errors import TRANSIENT, ConfigurationError, Drained, PipelineError
from pipeline.mpi.agreement import agreed, root_first, trouble_shared
from pipeline.mpi.launch import connect
from pipeline.mpi.launched import end_time, local_rank
from pipeline.mpi.stall import looked_at, moved
from pipeline.mpi.stop import Stop, asked_to_stop
from pipeline.mpi.watcher import InHand, nobody_watches
from pipeline.mpi.world import Alone, World
from pipeline.records import DealtStudy, Line
from pipeline.run.beforehand import check_request, check_weights
from pipeline.run.crate import write_crate
from pipeline.run.index import Private, index
from pipeline.run.journal import Journal, encode
from pipeline.run.legs import end_leg
from pipeline.run.lock import Held, hold, hold_briefly, holders
from pipeline.run.manifest import check_has_ct, read_manifest
from pipeline.run.open_studies import Report, Share, StudySource, journal_findings
from pipeline.run.pace import Pace
from pipeline.run.paths import IMAGES, PRIVATE, part_homes
from pipeline.run.plan import Plan, Request, describe, networks_at, plan, read_weights, resolved
from pipeline.run.resume import compact, last_places, noted_places
from pipeline.run.run_toml import Network, provenance, read_described
from pipeline.run.textfile import Textfile
from pipeline.run.weights import Weights, weights_of

if TYPE_CHECKING:
    from pipeline.run.gather import Summary
    from pipeline.study.engine import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process that screens again and again keeps: the networks, and who is told which stage begins."""

    networks: list[Network]
    engine: Engine
    begins: Callable[[str], None] = lambda _: None


def keep(
    weights: Sequence[str | Path | Weights], config: Config, begins: Callable[[str], None] = lambda _: None
) -> Kept:  # fmt: skip
    """Load networks once, for many runs with this `config`. Raises PipelineError."""
    from pipeline.study.drenet import load_checkpoint_bytes
    from pipeline.study.engine import Engine

    asked = [weights_of(one) for one in weights]
    for one in asked:
        check_weights(one.path)
    networks = networks_at(asked)
    loaded = [
        load_checkpoint_bytes(read_weights(one.path, network.sha256)) for one, network in zip(asked, networks, strict=True)
    ]
    return Kept(networks, Engine(loaded, resolved(config).engine), begins)


def screen(  # noqa: PLR0913  what a run can be asked, all with defaults
    archive: str | Path, weights: str | Path | Weights | Sequence[str | Path | Weights], out: str | Path, *,
    config: Config | str | Path | None = None, key_file: str | Path | None = None, refresh: bool = False,
    contact_sheet: bool = False,
) -> Summary | None:  # fmt: skip
    """Screen `archive` with the networks at `weights` into the run's folder `out`; the summary, on root (None elsewhere).

    `weights` are checkpoints' files, a string also as "NAME=PATH"; `config` is a Config or a TOML file's path. Works alone or
    on every rank of an MPI program; called again on the same `out`
    it resumes. Raises PipelineError.
    """
    files = [weights] if isinstance(weights, str | Path | Weights) else weights
    settings = config if isinstance(config, Config) else read_config(Path(config) if config else None)
    request = Request(
        Path(archive),
        tuple(map(weights_of, files)),
        Path(out),
        settings,
        Path(key_file) if key_file else None,
        refresh=refresh,
        contact_sheet=contact_sheet,
    )
    world = connect(root_computes_up_to=settings.run.root_computes_up_to, join_s=settings.run.join_s)
    with looked_at(settings.run.stall_s, world.rank) if world.size > 1 else nullcontext():
        return run(world, request)


def run(
    world: Alone | World, request: Request, begun: Callable[[Path], None] = lambda _: None, in_hand: InHand = nobody_watches,
    kept: Kept | None = None,
) -> Summary | None:  # fmt: skip
    """Carry out `request` on all ranks; `begun` is told each rank's log file, `in_hand` what to record should the rank die.

    `kept` spares loading the request's networks, which it must hold.

    None on root where other parts of the run are still open. Raises PipelineError, Drained when stopped.
    """
    with ExitStack() as stack, asked_to_stop() as stop:
        with root_first(world):
            if world.rank == 0:
                check_request(request.archive, request.out, request.networks, request.key_file)
                stack.enter_context(_held(request))
        source: StudySource | None = None  # which only root has
        with ExitStack() as preparing:
            with root_first(world):
                if world.rank == 0 and request.part:
                    preparing.enter_context(hold_briefly(request.out))
            known = kept.networks if kept else None
            made = msgspec.json.decode(agreed(world, lambda: msgspec.json.encode(plan(request, known))), type=Plan)
            begun(made.log(world.rank))
            if made.index_needed:
                _index(world, request, made.config, stop)
            with root_first(world):
                if world.rank == 0:
                    source = _open(request, made, world.size)
        networks = kept or [
            agreed(world, partial(read_weights, one.path, network.sha256))
            for one, network in zip(request.networks, made.networks, strict=True)
        ]
        with _legs_watched(source, request):
            _screen_dealt(world, made, networks, source, stop, in_hand)
            with root_first(world):
                return _finish(source, request) if source else None


@contextmanager
def _legs_watched(source: StudySource | None, request: Request) -> Iterator[None]:
    """Where root is to be started again for the rest, it looks whether that is of any use."""
    begun = time.monotonic()
    try:
        yield
    except PipelineError as error:
        if source is not None and error.exit_code == Drained.exit_code:
            lasted_s, enough_s = time.monotonic() - begun, request.config.run.abandon_after_s
            end_leg(request.home, source.before, lasted_s, enough_s=enough_s, moved=source.moved)
        raise


def _held(request: Request) -> Held:
    """The lock of this job: of its part, or of the whole run, which no part may then be at work on."""
    held = hold(request.home)
    busy = [] if request.part else [name for home in part_homes(request.out) for name in holders(home)]
    if busy:
        held.close()
        raise ConfigurationError(f"a part of {request.out} is held by {busy[0]}: wait for it, or choose another --out")
    return held


def gather_run(out: Path) -> Summary:
    """Rebuild the derived files of a run from its journals."""
    from pipeline.run.gather import gather

    described = read_described(out)
    summary = gather(out, described.networks, provenance(described))
    write_crate(out)
    return summary


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
    with ExitStack() as stack, asked_to_stop() as stop:
        with root_first(world):
            if world.rank == 0:
                check_request(archive, out, key_file=key_file)
                stack.enter_context(_held(request))
        _index(world, request, config, stop)
        with root_first(world):
            return _indexed(out) if world.rank == 0 else None


def _indexed(out: Path) -> Indexed:
    manifest = read_manifest(out / PRIVATE)
    n_ready = sum(entry.status == "READY" for entry in manifest.entries)
    if not n_ready:
        check_has_ct(out / PRIVATE)
    return Indexed(manifest.heading.n_files, len(manifest.entries), n_ready)


def _index(world: Alone | World, request: Request, config: Config, stop: Callable[[], bool]) -> None:
    private: Private | None = None
    with root_first(world):
        if world.rank == 0:
            private = Private(request.out / PRIVATE, request.key())
    index(world, request.archive.absolute(), private, config, stop)


def _open(request: Request, made: Plan, size: int) -> StudySource:
    """Root's source of studies: what earlier attempts and indexing have settled is journalled and left out."""
    manifest = read_manifest(request.out / PRIVATE)
    describe(made, request.key(), manifest.sha256)
    done = compact(request.home)
    if request.part:
        done = last_places(request.out)
    share = Share(*(request.part or (1, 1)), Pace(end_time()), retry_lost=request.retry_lost)
    with Journal(made.journal(0).with_name("root.jsonl"), fsync_every_s=1.0) as journal:
        journal_findings(journal, manifest, done, share.numbers(manifest))
    source = StudySource(manifest, done, size, made.config.run, share, partial(noted_places, request.out))
    if request.textfile:
        source.progress.tell(Textfile(request.textfile))
    return source


def _screen_dealt(
    world: Alone | World, made: Plan, networks: list[bytes] | Kept, source: StudySource | None, stop: Stop, in_hand: InHand
) -> None:  # fmt: skip
    """Every rank takes studies until none is left; trouble on one rank is every rank's."""
    from pipeline.study.engine import hint
    from pipeline.study.screener import Outputs, Screener, lost_line  # torch is for who screens: to index needs none

    path = made.journal(world.rank)
    begins = networks.begins if isinstance(networks, Kept) else _nobody
    outputs = Outputs(Path(made.out) / IMAGES if made.contact_sheet else None, made.pack(world.rank), begins)
    ready = networks.engine if isinstance(networks, Kept) else networks

    def tick() -> None:
        world.tick()
        if stop.for_s() > made.config.run.abandon_after_s:
            raise Drained("asked to stop, and left the study in hand to the next start")

    own = Pace(end_time())  # of what a rank holds ahead, root can no longer say when it begins

    def pause() -> bool:
        return stop() or own.late or (source is not None and (source.broken or source.out_of_time))

    with ExitStack() as stack:
        with trouble_shared(world):
            archive, rank = Path(made.archive), local_rank()
            screener = stack.enter_context(Screener(archive, made.config, ready, outputs, local_rank=rank, tick=tick))
            journal = stack.enter_context(Journal(path, made.config.run.fsync_every_s))
        if world.rank == 0 and (said := hint(made.config.engine)):
            log.info(said)
        with trouble_shared(world), closing(world.deal(source, pause=pause)) as tasks:
            for task, done in tasks:
                dealt = msgspec.json.decode(task, type=DealtStudy)
                in_hand(path, encode(lost_line(dealt)))
                line = screener.line(dealt)
                journal.append(line)
                in_hand(None, b"")
                report = _report(line)
                own.measured(1.0, report.seconds)
                done(msgspec.json.encode(report))


def _nobody(_: str) -> None:
    """Nobody is told which stage begins."""


def _report(line: Line) -> Report:
    result = line.result
    if result is None:
        raise ValueError("a study's line holds its result")
    transient = result.status == "FAILED" and result.reason in TRANSIENT
    return Report(result.study_key, result.status, result.reason, line.tries, transient, sum(line.seconds.values()))


def _finish(source: StudySource, request: Request) -> Summary | None:
    """Root gathers, where the run came to its end; of parts, the last."""
    source.progress.close()
    if source.broken:
        raise PipelineError("stopped: too many studies ended in INTERNAL_ERROR; see logs/, then start the same command again")
    if source.hopeless_s:
        raise ConfigurationError(
            f"a study takes {source.hopeless_s:,.0f} s, more than the walltime leaves: ask for a longer one"
        )
    if source.out_of_time:
        raise Drained("stopped before the walltime ends; start the same command again to go on")
    if not source.finished:
        raise Drained("stopped early as asked; start the same command again to go on")
    if not request.part:
        return _tables_of(request)
    with hold_briefly(request.out):
        n_open = source.n_open_elsewhere(last_places(request.out))
        if not n_open:
            return _tables_of(request)
    log.info(
        "part %d of %d is done; %d studies are open in other parts, the last of them writes the tables", *request.part, n_open
    )
    return None


def _tables_of(request: Request) -> Summary:
    summary = gather_run(request.out)
    moved()
    if request.report:
        _show(request.out)
        write_crate(request.out)  # anew, with the report
    if not any(status.startswith("OK") for status in summary.by_status):
        check_has_ct(request.out / PRIVATE)
    return summary


def _show(out: Path) -> None:
    """Make the report, which can be made again: whatever goes wrong with it, the tables stay. Raises PipelineError."""
    from pipeline.report import keep_highest, write_report

    try:
        keep_highest(out)
        write_report(out)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(
            f"the tables are complete, but the report could not be made ({type(error).__name__}): "
            f"`drenet report {out.name}` makes it again, and says what is wrong"
        ) from error
