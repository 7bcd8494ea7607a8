"""The spine: index -> deal -> (a study through its stages) -> record -> gather, over any number of ranks.

Root reads configuration, key, manifest and weights, and tells the others. Whatever happens to a study, it ends as one journal
record; a run killed at any moment goes on from its journals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.config import Config, read_config
from pipeline.errors import TRANSIENT, Drained
from pipeline.mpi.agreement import agreed, root_first, trouble_shared
from pipeline.mpi.launch import connect
from pipeline.mpi.launched import end_time, local_rank
from pipeline.mpi.stall import looked_at
from pipeline.mpi.stop import Stop, asked_to_stop
from pipeline.mpi.watcher import InHand, nobody_watches
from pipeline.mpi.world import Alone, World
from pipeline.records import DealtStudy, Line
from pipeline.run.beforehand import check_request
from pipeline.run.journal import Journal, encode
from pipeline.run.lock import hold_briefly
from pipeline.run.manifest import read_manifest
from pipeline.run.open_studies import Share, StudyReport, StudySource, journal_findings
from pipeline.run.pace import Pace
from pipeline.run.paths import IMAGES, PRIVATE
from pipeline.run.plan import Plan, Request, describe, described, loaded, plan, read_weights
from pipeline.run.resume import compact, last_records, noted_records
from pipeline.run.textfile import Textfile
from pipeline.run.weights import Weights, weights_of
from pipeline.screening.ahead import LoadedAhead, compile_judge
from pipeline.screening.ending import finish, legs_watched
from pipeline.screening.indexing import held, index_archive
from pipeline.screening.kept import Kept

if TYPE_CHECKING:
    from pipeline.run.gather import Summary
    from pipeline.study.checkpoint import Checkpoint

log = logging.getLogger(__name__)


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
                stack.enter_context(held(request))
        if not kept:
            compile_judge(request.config)
        source: StudySource | None = None  # which only root has, as the networks that it loads for the plan
        own: list[Checkpoint] = []
        with ExitStack() as preparing:
            with root_first(world):
                if world.rank == 0 and request.part:
                    preparing.enter_context(hold_briefly(request.out))
                if world.rank == 0 and not kept:
                    own = loaded(request.networks)
            made = msgspec.json.decode(agreed(world, lambda: msgspec.json.encode(_planned(request, kept, own))), type=Plan)
            begun(made.log(world.rank))
            if made.index_needed:
                index_archive(world, request, made.config, stop)
            with root_first(world):
                if world.rank == 0:
                    source = _open(request, made, world.size)
        networks = kept or _networks(world, request, made, own)
        with legs_watched(source, request):
            _screen_dealt(world, made, networks, source, stop, in_hand)
            with root_first(world):
                return finish(source, request) if source else None


def _planned(request: Request, kept: Kept | None, own: Sequence[Checkpoint]) -> Plan:
    return plan(request, kept.networks if kept else described(request.networks, own))


def _networks(world: Alone | World, request: Request, made: Plan, own: list[Checkpoint]) -> list[Checkpoint] | list[bytes]:
    """Root's `own`; elsewhere the checkpoints' bytes, as root reads them again for the others."""
    if world.size == 1:
        return own
    sent = [
        agreed(world, partial(read_weights, one.path, network.sha256))
        for one, network in zip(request.networks, made.networks, strict=True)
    ]
    return own or sent


def _open(request: Request, made: Plan, size: int) -> StudySource:
    """Root's source of studies: what earlier attempts and indexing have settled is journalled and left out."""
    manifest = read_manifest(request.out / PRIVATE)
    describe(made, request.key(), manifest.sha256)
    done = compact(request.home)
    if request.part:
        done = last_records(request.out)
    share = Share(*(request.part or (1, 1)), Pace(end_time()), retry_lost=request.retry_lost)
    with Journal(made.journal(0).with_name("root.jsonl"), fsync_every_s=1.0) as journal:
        journal_findings(journal, manifest, done, share.numbers(manifest))
    source = StudySource(manifest, done, size, made.config.run, share, partial(noted_records, request.out))
    if request.textfile:
        source.progress.tell(Textfile(request.textfile))
    return source


def _screen_dealt(
    world: Alone | World, made: Plan, networks: list[Checkpoint] | list[bytes] | Kept, source: StudySource | None, stop: Stop,
    in_hand: InHand,
) -> None:  # fmt: skip
    """Every rank takes studies until none is left; trouble on one rank is every rank's."""
    from pipeline.study.engine import hint
    from pipeline.study.screener import Outputs, Screener, lost_line  # OpenVINO is for who screens: to index needs none

    path = made.journal(world.rank)
    ahead = LoadedAhead()
    begins = networks.begins if isinstance(networks, Kept) else ahead.begins if world.rank == 0 else _nobody
    outputs = Outputs(Path(made.out) / IMAGES if made.contact_sheet else None, made.pack(world.rank), begins)
    ready = networks.engine if isinstance(networks, Kept) else networks

    own = Pace(end_time())  # of what a rank holds ahead, root can no longer say when it begins
    until = Until(world, source, stop, own, made.config.run.abandon_after_s)

    def tick() -> None:
        until.tick()
        ahead.tick()

    with ExitStack() as stack:
        with trouble_shared(world):
            archive = Path(made.archive)
            rank = local_rank()
            screener = stack.enter_context(Screener(archive, made.config, ready, outputs, local_rank=rank, tick=tick))
            if not isinstance(networks, Kept):
                networks.clear()  # the engine has its own by now: a hundred megabytes of each
            journal = stack.enter_context(Journal(path, made.config.run.fsync_every_s))
        if world.rank == 0 and (said := hint(made.config.engine)):
            log.info(said)
        with trouble_shared(world), closing(world.deal(source, pause=until.pause)) as tasks:
            for task, done in tasks:
                dealt = msgspec.json.decode(task, type=DealtStudy)
                in_hand(path, encode(lost_line(dealt)))
                line = screener.line(dealt)
                journal.append(line)
                in_hand(None, b"")
                report = _report(line)
                own.measured(1.0, report.seconds)
                done(msgspec.json.encode(report))


@dataclass(frozen=True, slots=True)
class Until:
    """How long a rank goes on: asked between studies, and between the slices of one."""

    world: Alone | World
    source: StudySource | None
    stop: Stop
    own: Pace
    abandon_after_s: float

    def pause(self) -> bool:
        """Whether nothing new is begun: stopped, or no time left; root also where too much is broken."""
        is_over = self.source is not None and (self.source.broken or self.source.out_of_time)
        return self.stop() or self.own.late or is_over

    def tick(self) -> None:
        """Serve the others. Raises Drained where the study in hand is to be left, so long ago was the stop asked for."""
        self.world.tick()
        if self.stop.for_s() > self.abandon_after_s:
            raise Drained("asked to stop, and left the study in hand to the next start")


def _nobody(_: str) -> None:
    """Nobody is told which stage begins."""


def _report(line: Line) -> StudyReport:
    result = line.result
    if result is None:
        raise ValueError("a study's line holds its result")
    transient = result.status == "FAILED" and result.reason in TRANSIENT
    return StudyReport(result.study_key, result.status, result.reason, line.tries, transient, sum(line.seconds.values()))
