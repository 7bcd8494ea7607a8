"""Index an archive over the ranks: every folder is listed by one rank, every file's header read once.

Root deals folders and batches of files, keeps what comes back in `private/scan.jsonl`, and builds the manifest at the end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipeline.archive import FileRecord, build_studies, list_folder, scan_file
from pipeline.config import SeriesConfig
from pipeline.deal import Deal
from pipeline.errors import Drained
from pipeline.manifest import Heading, write_manifest
from pipeline.pseudonym import fingerprint
from pipeline.ranks import Alone, World, on_root

log = logging.getLogger(__name__)
BATCH = 100


@dataclass(frozen=True, slots=True)
class Task:
    """A folder to list, or files to read."""

    folder: str | None = None
    files: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one task found; `number` is the task's."""

    number: int
    folders: tuple[str, ...] = ()
    files: tuple[FileRecord, ...] = ()


class IndexSource:
    """Root's side: folders and batches still to do, and all that is known already."""

    def __init__(self, scan: BinaryIO, known: dict[str, FileRecord], size: int) -> None:
        self._scan, self._known = scan, known
        self._deal = Deal(size=size)
        self._tasks: dict[int, Task] = {}
        self._n_tasks = 0
        self._unread: deque[FileRecord] = deque()
        self.records: list[FileRecord] = []
        self._add(Task(folder=""))

    def give(self, rank: int) -> list[bytes]:
        """Tasks for `rank`, each with its number."""
        return [msgspec.json.encode((number, self._tasks[number])) for number in self._deal.give(rank)]

    def report(self, rank: int, report: bytes) -> None:
        """Take in what a task found, and open the tasks that follow from it."""
        found = msgspec.json.decode(report, type=Report)
        task = self._tasks.pop(found.number)
        self._deal.done(rank, found.number)
        if task.folder is None:
            self.records += found.files
            self._scan.write(b"".join(msgspec.json.encode(file) + b"\n" for file in found.files))
            self._scan.flush()
        else:
            self._listed(found)

    def lost(self, rank: int) -> None:
        """What `rank` held is open again."""
        self._deal.lost(rank)

    @property
    def finished(self) -> bool:
        """Nothing left to list or read."""
        return self._deal.finished

    def _listed(self, found: Report) -> None:
        for folder in found.folders:
            self._add(Task(folder=folder))
        fresh: list[FileRecord] = []
        for file in found.files:
            before = self._known.get(file.path)
            if file.reason or file.picture:
                self.records.append(file)
            elif before and (before.size, before.mtime_ns) == (file.size, file.mtime_ns) and before.header:
                self.records.append(before)
            else:
                fresh.append(file)
        for start in range(0, len(fresh), BATCH):
            self._add(Task(files=tuple(fresh[start : start + BATCH])))

    def _add(self, task: Task) -> None:
        self._tasks[self._n_tasks] = task
        self._deal.add(self._n_tasks, 1.0 if task.folder is not None else 2.0)
        self._n_tasks += 1


def index(
    world: Alone | World, root: Path, private: Path | None, config: SeriesConfig, key: bytes | None,
    pause: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Write the manifest of `root` into `private`; root alone has `private` and `key`."""
    source, scan = None, None
    if private is not None:
        known = _known(private / "scan.jsonl")
        scan = (private / "scan.jsonl").open("ab")
        scan.write(b"\n")  # ends a line that a kill may have torn
        source = IndexSource(scan, known, world.size)
    with closing(world.deal(source, pause=pause)) as tasks:
        for task, done in tasks:
            done(_work(root, task))
    on_root(world, lambda: _write(source, scan, root, private, config, key))


def _write(
    source: IndexSource | None, scan: BinaryIO | None, root: Path, private: Path | None, config: SeriesConfig, key: bytes | None
) -> None:
    """Root groups what was found into studies, and writes the manifest."""
    if source is None or scan is None or private is None or key is None:
        raise ValueError("root has the source, the folder and the key")
    scan.close()
    if not source.finished:
        raise Drained("indexing stopped early; start the same command again")
    studies, events, n_files = build_studies(sorted(source.records, key=lambda file: file.path), config, key)
    log.info("indexed %d files: %d studies, %d files outside any", n_files, len(studies), sum(e.count for e in events))
    heading = Heading(str(root), fingerprint(key), selection_digest(config), n_files, tuple(events))
    write_manifest(private, heading, studies)


def selection_digest(config: SeriesConfig) -> str:
    """What of the configuration a manifest depends on."""
    return msgspec.json.encode(config, order="deterministic").decode()


def _work(root: Path, task: bytes) -> bytes:
    number, wanted = msgspec.json.decode(task, type=tuple[int, Task])
    if wanted.folder is None:
        return msgspec.json.encode(Report(number, files=tuple(scan_file(root, file) for file in wanted.files)))
    folders, files = list_folder(root, wanted.folder)
    return msgspec.json.encode(Report(number, tuple(folders), tuple(files)))


def _known(path: Path) -> dict[str, FileRecord]:
    """What earlier scans read of every file; the last reading wins."""
    known: dict[str, FileRecord] = {}
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                try:
                    record = msgspec.json.decode(line, type=FileRecord)
                except msgspec.DecodeError:
                    continue  # torn by a kill: the file is read again
                known[record.path] = record
    return known
