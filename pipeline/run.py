"""The spine: index -> deal -> prepare -> infer -> aggregate -> record -> gather, over any number of ranks.

Root reads configuration, key, manifest and weights, and tells the others. Whatever happens to a study, it ends as one journal
record; a run killed at any moment goes on from its journals.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from pipeline import __version__
from pipeline.aggregate import excluded_result, failed_result, study_result
from pipeline.archive import Decoder, read_volume
from pipeline.config import Config, differing_fields, results_digest, to_toml
from pipeline.deal import Deal
from pipeline.errors import TRANSIENT, ConfigurationError, Drained, PipelineError, Reason, StorageError, StudyError
from pipeline.gather import Summary, gather
from pipeline.indexing import index, selection_digest
from pipeline.manifest import NAME, Manifest, read_manifest
from pipeline.progress import Progress
from pipeline.pseudonym import default_key_file, fingerprint, read_or_create_key
from pipeline.ranks import Alone, World, connect
from pipeline.records import Provenance, Study, StudyResult
from pipeline.store import Found, Journal, Line, Place, compact, next_attempt, storage_error, write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; `networks` are the checkpoint files."""

    archive: Path
    networks: tuple[Path, ...]
    out: Path
    config: Config = field(default_factory=Config)
    key_file: Path | None = None
    refresh: bool = False
    contact_sheet: bool = False


class Setup(msgspec.Struct, frozen=True):
    """What root decided and every rank needs."""

    config: Config
    archive: str
    out: str
    attempt: int
    n_networks: int
    index_needed: bool
    contact_sheet: bool = False


def screen(
    archive: str | Path, weights: str | Path | Sequence[str | Path], out: str | Path, *, config: Config | None = None,
    key_file: str | Path | None = None,
) -> Summary | None:  # fmt: skip
    """Screen `archive` with the networks at `weights` into the run's folder `out`; the summary, on root (None elsewhere)."""
    files = [weights] if isinstance(weights, str | Path) else weights
    networks = tuple(Path(file) for file in files)
    key = Path(key_file) if key_file else None
    return run(connect(), Request(Path(archive), networks, Path(out), config or Config(), key))


def run(world: Alone | World, request: Request) -> Summary | None:
    """Carry out `request` on all ranks. Raises PipelineError; Drained when asked to stop early."""
    stop = Stop()
    private = request.out / "private"
    setup = msgspec.json.decode(_agreed(world, lambda: msgspec.json.encode(_begin(request))), type=Setup)
    root = world.rank == 0
    if setup.index_needed:
        key = read_or_create_key(request.key_file or default_key_file()) if root else None
        index(world, Path(setup.archive), private if root else None, setup.config.series, key, stop)
    weights = [_agreed(world, partial(_read_weights, path)) for path in request.networks]
    manifest = read_manifest(private) if root else None
    source = _agreed_source(world, request, setup, weights, manifest)
    stage = Stages(setup, weights, world)
    with Journal(_journal_path(setup, world.rank), setup.config.run.fsync_every_s) as journal, stage.decoder:
        for task, done in world.deal(source, pause=lambda: stop() or (source is not None and source.broken)):
            study = msgspec.json.decode(task, type=Study)
            line = stage.study(study)
            journal.append(line)
            done(msgspec.json.encode((study.study_key, line.result.status if line.result else "", stage.seconds)))
    return _end(world, source, request, manifest)


def _end(world: Alone | World, source: StudySource | None, request: Request, manifest: Manifest | None) -> Summary | None:
    """Root gathers; every rank learns how it ended."""

    def finish() -> bytes:
        if source is None or manifest is None:
            return b""
        source.progress.close()
        if source.broken:
            raise PipelineError(f"stopped: {source.n_internal} studies ended in INTERNAL_ERROR; see logs/, then resume")
        if not source.finished:
            raise Drained("stopped early as asked; start the same command again to go on")
        return msgspec.json.encode(gather_run(request.out))

    data = _agreed(world, finish)
    return msgspec.json.decode(data, type=Summary) if world.rank == 0 else None


def gather_run(out: Path) -> Summary:
    """Rebuild the derived files of a run from its journals."""
    described = _read_run(out)
    names = [f"probability_{n + 1}" if n else "probability" for n in range(len(described["weights_sha256"]))]
    provenance = Provenance(
        code_version=described["code_version"],
        configuration_sha256=described["configuration_sha256"],
        manifest_sha256=described["manifest_sha256"],
        weights_sha256=tuple(described["weights_sha256"]),
        engine=described["config"]["engine"]["name"],
        precision=described["config"]["engine"]["precision"],
        key_fingerprint=described["key_fingerprint"],
    )
    return gather(out, names or ["probability"], provenance)


class Stop:
    """True once the process was asked to stop (USR1, TERM)."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self._asked


class StudySource:
    """Root's side of the deal: open studies of the manifest, as their JSON lines."""

    def __init__(self, manifest: Manifest, done: dict[str, Place], size: int, config: Config) -> None:
        self._lines = manifest.lines
        self._number = {entry.study_key: n for n, entry in enumerate(manifest.entries)}
        limit = config.run.max_attempts
        tasks = [
            (n, entry.cost)
            for n, entry in enumerate(manifest.entries)
            if entry.status == "READY" and not _is_done(done.get(entry.study_key), limit)
        ]
        self._deal = Deal(tasks, size=size)
        self._limit = config.run.max_internal_errors
        self.n_internal = self._n_finished = 0
        self.progress = Progress(len(tasks), every_s=config.run.progress_every_s)

    def give(self, rank: int) -> list[bytes]:
        """The next studies of `rank`."""
        return [self._lines[n] for n in self._deal.give(rank)]

    def report(self, rank: int, report: bytes) -> None:
        """`rank` has journalled one study."""
        key, status, internal = msgspec.json.decode(report, type=tuple[str, str, float])
        self._deal.done(rank, self._number[key])
        self._n_finished += 1
        self.n_internal += internal < 0
        self.progress.step(failed=status == "FAILED")

    @property
    def finished(self) -> bool:
        """Every study has its record."""
        return self._deal.finished

    @property
    def broken(self) -> bool:
        """Too many studies end in INTERNAL_ERROR: the program is wrong, not the archive."""
        return self.n_internal > max(self._limit, self._n_finished // 100)


class Stages:
    """One rank's stages, ready to take one study after the other; the only place that catches errors per study."""

    def __init__(self, setup: Setup, weights: list[bytes], world: Alone | World) -> None:
        import cv2

        from pipeline.infer import Engine
        from pipeline.model import load_checkpoint_bytes

        cv2.setNumThreads(setup.config.engine.threads)
        local_rank = int(os.environ.get("SLURM_LOCALID") or os.environ.get("MPI_LOCALRANKID") or world.rank)
        networks = [load_checkpoint_bytes(data) for data in weights]
        self._engine = Engine(networks, setup.config.engine, local_rank=local_rank)
        self._setup, self._world = setup, world
        self.decoder = Decoder(setup.config.run.decode_cpu_s)
        self.seconds = 0.0

    def study(self, study: Study) -> Line:
        """The journal record of one study, whatever becomes of it; transient failures are tried again."""
        self.seconds = 0.0
        for tries in range(1, self._setup.config.run.max_attempts + 1):
            try:
                return Line(result=self._candidates(study))
            except StudyError as error:
                if error.reason in TRANSIENT and tries < self._setup.config.run.max_attempts:
                    continue
                return Line(result=failed_result(study, error), tries=tries)
            except StorageError:
                raise
            except MemoryError:
                return Line(result=failed_result(study, StudyError(Reason.OUT_OF_MEMORY, "infer")))
            except Exception:
                self.seconds = -1.0
                log.exception("study %s: INTERNAL_ERROR", study.study_key)
                return Line(result=failed_result(study, StudyError(Reason.INTERNAL_ERROR, "infer")))
        raise AssertionError("max_attempts is at least 1")

    def _candidates(self, study: Study) -> StudyResult:
        """Score the best series; one without lungs falls through to the next."""
        for place, series in enumerate(study.candidates):
            try:
                return self._score(study, place)
            except StudyError as error:
                if error.reason != Reason.NO_LUNG_FOUND or series is study.candidates[-1]:
                    raise
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")

    def _score(self, study: Study, place: int) -> StudyResult:
        from pipeline.lung import lung_masks
        from pipeline.preprocess import choose_slices, prepare

        config, series = self._setup.config, study.candidates[place]
        wanted = choose_slices([source.z_mm for source in series.slices], config.slices)
        volume = read_volume(Path(self._setup.archive), series, wanted, self.decoder)
        self._world.tick()
        masks = lung_masks(volume.hu, volume.z_mm, volume.spacing_mm, config.lung.recipe)
        self._world.tick()
        prepared = prepare(volume, masks, series.seed, config)
        if self._setup.contact_sheet:
            from pipeline.contactsheet import write_contact_sheet

            write_contact_sheet(Path(self._setup.out) / "images" / f"{study.study_key}.png", volume, masks, prepared)
        self._world.tick()
        return study_result(study, series, prepared, self._engine.predict(prepared, self._world.tick))


def _agreed(world: Alone | World, on_root: Callable[[], bytes]) -> bytes:
    """Root's bytes on every rank; an error of root's is raised on every rank too."""
    data = b""
    if world.rank == 0:
        try:
            data = b"\0" + on_root()
        except PipelineError as error:
            world.broadcast(bytes([error.exit_code]) + str(error).encode())
            raise
    data = world.broadcast(data if world.rank == 0 else None)
    if data[0]:
        told = PipelineError(data[1:].decode())
        told.exit_code = data[0]
        raise told
    return data[1:]


def _agreed_source(
    world: Alone | World, request: Request, setup: Setup, weights: list[bytes], manifest: Manifest | None
) -> StudySource | None:
    """Root's source of studies, once the resume has been found to change nothing."""
    made: list[StudySource] = []

    def make() -> bytes:
        if manifest is not None:
            _settle(request, setup, weights, manifest)
            made.append(_source(request.out, setup, manifest, world.size))
        return b""

    _agreed(world, make)
    return made[0] if made else None


def _begin(request: Request) -> Setup:
    """Root looks before anything starts: archive, weights, folder, lock."""
    if not request.archive.is_dir():
        raise ConfigurationError(f"{request.archive} is no folder: name the archive's top folder")
    if not request.networks:
        raise ConfigurationError("no weights: name a checkpoint with --weights")
    for path in request.networks:
        if not path.is_file():
            raise ConfigurationError(f"no checkpoint at {path}: name a file with --weights")
    private = request.out / "private"
    try:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.chmod(0o700)
        _lock(private / "lock", request.out)
    except OSError as error:
        raise storage_error(error, request.out) from error
    config = _resolved(request.config)
    key = read_or_create_key(request.key_file or default_key_file())
    return Setup(
        config=config,
        archive=str(request.archive.absolute()),
        out=str(request.out.absolute()),
        attempt=next_attempt(request.out),
        n_networks=len(request.networks),
        index_needed=request.refresh or not _usable_manifest(private, config, key),
        contact_sheet=request.contact_sheet,
    )


_locks: list[Any] = []


def _lock(path: Path, out: Path) -> None:
    """Hold the run until this process ends; a second job on it is refused."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(f"{out} is held by another job: wait for it, or choose another --out") from error
    _locks[:] = [file]


def _resolved(config: Config) -> Config:
    from pipeline.infer import resolve_engine

    engine = msgspec.structs.replace(config.engine, name=resolve_engine(config.engine.name))
    return msgspec.structs.replace(config, engine=engine)


def _usable_manifest(private: Path, config: Config, key: bytes) -> bool:
    """Is there a manifest, made by the same selection? Another key is refused: it would rename every study."""
    if not (private / NAME).exists():
        return False
    heading = read_manifest(private).heading
    if heading.key_fingerprint != fingerprint(key):
        raise ConfigurationError("key: this run was begun with another pseudonym key; name that one with --key-file")
    return heading.selection_sha256 == selection_digest(config.series)


def _read_weights(path: Path) -> bytes:
    from pipeline.model import load_checkpoint_bytes

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    load_checkpoint_bytes(data, name=str(path))
    return data


def _settle(request: Request, setup: Setup, weights: list[bytes], manifest: Manifest) -> None:
    """Refuse a resume that would change results silently; else record what this run is made of."""
    import hashlib

    described = {
        "code_version": __version__,
        "configuration_sha256": results_digest(setup.config),
        "manifest_sha256": manifest.sha256,
        "key_fingerprint": manifest.heading.key_fingerprint,
        "weights_sha256": [hashlib.sha256(data).hexdigest() for data in weights],
    }
    if (request.out / "run.toml").exists():
        before = _read_run(request.out)
        changed = differing_fields(msgspec.convert(before["config"], Config), setup.config)
        changed += ["weights"] if before["weights_sha256"] != described["weights_sha256"] else []
        if changed:
            raise ConfigurationError(
                f"{request.out} was begun with other settings ({', '.join(changed)}): use those, or choose another --out"
            )
    text = msgspec.toml.encode({**described, "config": msgspec.toml.decode(to_toml(setup.config).encode())})
    write_whole(request.out / "run.toml", text)


def _read_run(out: Path) -> dict[str, Any]:
    try:
        described: dict[str, Any] = msgspec.toml.decode((out / "run.toml").read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{out} is no run's folder (run.toml is missing or damaged)") from error
    return described


def _source(out: Path, setup: Setup, manifest: Manifest, size: int) -> StudySource:
    """What is still to do; studies that indexing left out, and its findings, are journalled first."""
    done = compact(out)
    path = Path(setup.out) / "journal" / f"{setup.attempt:04d}" / "root.jsonl"
    with Journal(path, 1.0) as journal:
        journal.append(Line(found=Found(manifest.heading.n_files, manifest.heading.events)))
        for number, entry in enumerate(manifest.entries):
            if entry.status != "READY" and entry.study_key not in done:
                study = msgspec.json.decode(manifest.lines[number], type=Study)
                journal.append(Line(result=excluded_result(study)))
    return StudySource(manifest, done, size, setup.config)


def _is_done(place: Place | None, max_attempts: int) -> bool:
    return place is not None and not (place.transient and place.tries < max_attempts)


def _journal_path(setup: Setup, rank: int) -> Path:
    return Path(setup.out) / "journal" / f"{setup.attempt:04d}" / f"rank-{rank:05d}.jsonl"
