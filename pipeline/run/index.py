"""Index an archive over the ranks: every folder is listed by one rank, every file's header read once.

Root deals folders and batches of files, keeps what comes back in its catalogue, and builds the manifest at the end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pipeline.archive import (
    IDENTITY_RULE,
    FileRecord,
    FoundFile,
    Listed,
    asked,
    build_picture_study,
    build_study,
    build_volume_study,
    folder_patients,
    is_list,
    list_folder,
    listed_files,
    listed_study,
    pack,
    read_list,
    root_of,
    scan_file,
)
from pipeline.config import Config, Rule, SeriesConfig, SliceConfig
from pipeline.errors import ConfigurationError, Drained
from pipeline.mpi.agreement import root_first
from pipeline.mpi.world import Alone, World
from pipeline.pseudonym import fingerprint, pseudonym
from pipeline.records import Event, Series, Study
from pipeline.run.deal import Deal
from pipeline.run.earlier import EarlierStudies, code_digest
from pipeline.run.manifest import Heading, Made, write_manifest
from pipeline.run.scan_cache import Catalogue
from pipeline.study.slices import choose_slices

log = logging.getLogger(__name__)
BATCH = 100
BUILDING = (
    "archive/*.py", "config.py", "errors.py", "pseudonym.py", "records.py", "run/index.py", "run/scan_*.py", "study/slices.py",
)  # fmt: skip
"""The modules between the records of an archive's files and the lines of its studies."""
Build = Callable[[str, Sequence[FileRecord], SeriesConfig, bytes], Study]


@dataclass(frozen=True, slots=True)
class IndexTask:
    """A folder to list, or files to read."""

    folder: str | None = None
    files: tuple[FoundFile, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What one task found; `number` is the task's, `unlisted` says why a folder could not be listed.

    `read` are the files that were read as the catalogue keeps them, which root writes down as they come.
    """

    number: int
    folders: tuple[str, ...] = ()
    files: tuple[FoundFile, ...] = ()
    read: tuple[msgspec.Raw, ...] = ()
    unlisted: str = ""


@dataclass(frozen=True, slots=True)
class Private:
    """What only root has: the private folder of a run, and the key of its pseudonyms."""

    folder: Path
    key: bytes


class IndexSource:
    """Root's side: folders and batches still to do, and what is known already; begins with `files`, or else the top."""

    def __init__(self, catalogue: Catalogue, size: int, files: Sequence[FoundFile] | None = None) -> None:
        self.catalogue = catalogue
        self._deal = Deal(size=size)
        self._tasks: dict[int, IndexTask] = {}
        self._n_tasks = 0
        self.n_read = 0
        self.unlisted: list[str] = []
        if files is None:
            self._add(IndexTask(folder=""))
        else:
            self._take(files)

    def give(self, rank: int) -> list[bytes]:
        """Tasks for `rank`, each with its number."""
        return [msgspec.json.encode((number, self._tasks[number])) for number in self._deal.give(rank)]

    def report(self, rank: int, report: bytes) -> None:
        """Take in what a task found, and open the tasks that follow from it."""
        found = msgspec.json.decode(report, type=IndexReport)
        task = self._tasks.pop(found.number)
        if task.folder is None:
            self.n_read += len(found.read)
            for line in found.read:
                self.catalogue.add(bytes(line))
            self.catalogue.flush()
        else:
            self._listed(found)
        self._deal.done(rank, found.number)

    def lost(self, rank: int, *, died: bool = False) -> None:  # noqa: ARG002  a report says all there is
        """What `rank` held is open again."""
        self._deal.lost(rank)

    @property
    def finished(self) -> bool:
        """Nothing left to list or read."""
        return self._deal.finished

    def _listed(self, found: IndexReport) -> None:
        for folder in found.folders:
            self._add(IndexTask(folder=folder))
        if found.unlisted:
            self.unlisted.append(found.unlisted)
        self._take(found.files)

    def _take(self, files: Sequence[FoundFile]) -> None:
        for file in files:
            if file.records:
                self.catalogue.add(msgspec.json.encode(file))
        fresh = self.catalogue.recall([file for file in files if not file.records])
        for start in range(0, len(fresh), BATCH):
            self._add(IndexTask(files=tuple(fresh[start : start + BATCH])))

    def _add(self, task: IndexTask) -> None:
        self._tasks[self._n_tasks] = task
        self._deal.add(self._n_tasks, 1.0 if task.folder is not None else 2.0)
        self._n_tasks += 1


def index(
    world: Alone | World, root: Path, private: Private | None, config: Config, pause: Callable[[], bool] = lambda: False
) -> None:  # fmt: skip
    """Write the manifest of `root`, a folder or a CSV of files, into `private`, which only root has."""
    rules = asked(config.series)
    with Catalogue(private.folder, rules) if private else nullcontext() as catalogue:
        listed: list[Listed] | None = None
        with root_first(world):
            if world.rank == 0 and is_list(root):
                listed = read_list(root)
        files = listed_files(root, listed) if listed else None
        source = IndexSource(catalogue, world.size, files) if catalogue else None
        with closing(world.deal(source, pause=pause)) as tasks:
            for task, done in tasks:
                done(_work(root_of(root), task, world.tick, rules))
        with root_first(world):
            if source and private:
                _write(source, root, private, config, listed)


def _write(source: IndexSource, root: Path, private: Private, config: Config, listed: Sequence[Listed] | None) -> None:
    """Root groups what was found into studies, and writes the manifest."""
    if not source.finished:
        raise Drained("indexing stopped early; start the same command again")
    key = private.key
    catalogue = source.catalogue
    events = catalogue.left_out() + [Event("run", "walk", reason) for reason in source.unlisted]
    log.info("indexed %d files, %d read anew", catalogue.n_files, source.n_read)
    made_by = (fingerprint(key), selection_digest(config))
    heading = Heading(str(root), *made_by, catalogue.n_files, tuple(events), catalogue.kinds())
    digest = hashlib.sha256(msgspec.json.encode((made_by, code_digest(BUILDING)))).hexdigest()[:16]
    with EarlierStudies(private.folder, digest) as earlier:
        studies = _studies(catalogue, earlier, config, key) if listed is None else _listed(catalogue, listed, config, key)
        write_manifest(private.folder, heading, studies, digest)


def _studies(catalogue: Catalogue, earlier: EarlierStudies, config: Config, key: bytes) -> Iterator[Made]:
    """Every study in the order of its key, one in memory at a time; taken over where all of its files are known unchanged."""
    jobs: list[tuple[str, Build, Callable[[str], list[FileRecord]]]] = []
    jobs += [(uid, build_study, catalogue.study) for uid in catalogue.study_uids()]
    jobs += [(folder, build_picture_study, catalogue.pictures) for folder in catalogue.picture_folders()]
    jobs += [(name, _volume_of(patient), catalogue.volume) for name, patient in folder_patients(catalogue.volumes()).items()]
    for name, build, records in sorted(jobs, key=lambda job: pseudonym(key, "study", job[0])):
        sources = catalogue.sources(name) if build is build_study else ""
        line = earlier.line(pseudonym(key, "study", name), sources)
        yield Made(line or _thinned(build(name, records(name), config.series, key), config.slices), sources)


def _volume_of(patient: str) -> Build:
    """How the study of a volume of `patient` is built."""

    def build(name: str, records: Sequence[FileRecord], config: SeriesConfig, key: bytes) -> Study:
        return build_volume_study(name, patient, records[0], config, key)

    return build


def _listed(catalogue: Catalogue, rows: Sequence[Listed], config: Config, key: bytes) -> list[Study]:
    """A study a patient's pictures and one a volume, in the order of their keys."""
    if catalogue.study_uids():
        raise ConfigurationError("the list names DICOM images: screen their folder instead, it needs no list")
    records = catalogue.pictures_by_path()
    patients = dict[str, list[Listed]]()
    for row in rows:
        patients.setdefault(row.patient, []).append(row)
    volumes = {row.file: row for row in rows if catalogue.has_volume(row.file)}
    studies = [
        build_volume_study(name, row.patient, catalogue.volume(name)[0], config.series, key) for name, row in volumes.items()
    ]
    for members in patients.values():
        pictures = [row for row in members if row.file not in volumes]
        if pictures:
            studies.append(listed_study(pictures, records, config.series, key))
    masked = next((row.line for row in volumes.values() if row.mask), None)
    if masked:
        raise ConfigurationError(f"the list's line {masked} gives a volume a mask: only pictures can have one")
    return sorted((_thinned(study, config.slices) for study in studies), key=lambda study: study.study_key)


def _thinned(study: Study, config: SliceConfig) -> Study:
    """`study` with the slices that screening will read, of hundreds, and all of them packed: the manifest stays small."""
    return replace(study, candidates=tuple(_chosen(series, config) for series in study.candidates))


def _chosen(series: Series, config: SliceConfig) -> Series:
    places = choose_slices([source.z_mm for source in series.slices], config)
    rest = pack(series.slices) if len(places) < len(series.slices) else b""
    return replace(series, slices=tuple(series.slices[place] for place in places), packed=rest)


def selection_digest(config: Config) -> str:
    """What of the configuration, and of the rules built in, a manifest depends on."""
    slices = msgspec.to_builtins(config.slices)
    del slices["within"]  # a manifest serves either
    return msgspec.json.encode((IDENTITY_RULE, config.series, slices)).decode()


def _work(root: Path, task: bytes, tick: Callable[[], None], rules: tuple[Rule, ...] = ()) -> bytes:
    number, wanted = msgspec.json.decode(task, type=tuple[int, IndexTask])
    if wanted.folder is None:
        read = tuple(msgspec.Raw(msgspec.json.encode(scan_file(root, file, tick, rules))) for file in wanted.files)
        return msgspec.json.encode(IndexReport(number, read=read))
    folders, files, unlisted = list_folder(root, wanted.folder)
    return msgspec.json.encode(IndexReport(number, tuple(folders), tuple(files), unlisted=unlisted))
