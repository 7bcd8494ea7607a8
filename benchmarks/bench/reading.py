"""(b) A series of 300 slices from the disk to the network's input, beside MONAI, SimpleITK and pydicom in the same run.

Warm: the files are in memory. Cold: the system is asked to drop them before each reading. Ours starts at the stored index, or,
"without an index", reads all headers first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import dcmread

from benchmarks.bench.clock import ProcessorWatch, Spent, in_turn, middle, spent
from benchmarks.bench.peers import WAYS
from pipeline.archive import list_folder, scan_file
from pipeline.archive.tags import WANTED
from pipeline.config import Config
from pipeline.mpi.world import Alone
from pipeline.phantom import write_archive
from pipeline.records import DealtStudy
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest
from pipeline.study.screener import Preparer

PEERS = Path(__file__).with_name("peers.py")
OURS, UNINDEXED = "ours, from the stored index", "ours, without an index"


class Peers:
    """The process in which the peers read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._answer()

    def read(self, name: str, folder: Path) -> Spent:
        """One reading by one of them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\t{folder}\n")
        self._process.stdin.flush()
        told = self._answer()
        return Spent(told["clock_s"], told["cpu_s"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peers' process has ended: make bench makes its environment")
        return dict(json.loads(line))


@contextmanager
def peers_of(python: Path) -> Iterator[Peers]:
    """The peers in the environment of `python`, one thread each as we are."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    with subprocess.Popen(
        [python, PEERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | single,
    ) as process:  # fmt: skip
        yield Peers(process)
        assert process.stdin is not None
        process.stdin.close()


def measure(scratch: Path, python: Path, *, slices: int, repeats: int) -> dict[str, Any]:
    """Medians of every way, warm and cold, taking turns; and how fast headers are read."""
    archive = scratch / "reading" / "archive"
    archive.parent.mkdir()
    write_archive(archive, studies=1, matrix=512, slices=slices)
    folder = next(path.parent for path in archive.rglob("*.dcm"))
    files = sorted(folder.iterdir())
    dealt = _indexed(archive, scratch / "reading" / "first")
    with Preparer(archive, Config()) as preparer, peers_of(python) as peers:
        ours = partial(preparer.best, dealt.study)
        works: dict[str, Callable[[], Spent]] = {
            OURS: lambda: spent(ours),
            UNINDEXED: lambda: spent(lambda: _from_nothing(archive, scratch / "reading" / "again", preparer)),
            **{name: partial(peers.read, name, folder) for name in WAYS},
        }
        warm = in_turn(works, 1 + repeats)
        cold = in_turn({name: partial(_cold, files, work) for name, work in works.items()}, repeats)
        stages = _stages(preparer, dealt, repeats)
    return {
        "slices": slices,
        "versions": peers.versions,
        "warm": {name: _told(of[1:]) for name, of in warm.items()},
        "cold": {name: _told(of) for name, of in cold.items()},
        "stages_cpu_s": stages,
        "headers": headers(archive, folder.relative_to(archive), repeats),
        "seed": 0,
    }


def _indexed(archive: Path, folder: Path) -> DealtStudy:
    """The archive's one study, its headers read as a run reads them, with `folder` for what a run keeps."""
    folder.mkdir()
    index(Alone(), archive, Private(folder, bytes(32)), Config())
    manifest = read_manifest(folder)
    return DealtStudy(manifest.study(0), manifest.entries[0].digest)


def _from_nothing(archive: Path, folder: Path, preparer: Preparer) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    preparer.best(_indexed(archive, folder).study)


def _cold(files: list[Path], work: Callable[[], Spent]) -> Spent:
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return work()


def _stages(preparer: Preparer, dealt: DealtStudy, repeats: int) -> dict[str, float]:
    rows = []
    for _ in range(repeats):
        watch = ProcessorWatch()
        preparer.best(dealt.study, watch)
        rows.append(watch.seconds)
    return {stage: sorted(row[stage] for row in rows)[repeats // 2] for stage in rows[0]}


def headers(archive: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Files a second of the processor: our walk, and pydicom with the same tags and their values."""
    _, files, _ = list_folder(archive, str(folder))

    def ours() -> None:
        for file in files:
            scan_file(archive, file)

    def theirs() -> None:
        for file in files:
            data = dcmread(archive / file.path, stop_before_pixels=True, specific_tags=list(WANTED))
            for element in data:
                _ = element.value

    taken = in_turn({"ours": lambda: spent(ours), "pydicom": lambda: spent(theirs)}, repeats)
    return {name: len(files) / middle(of).cpu_s for name, of in taken.items()}


def _told(taken: list[Spent]) -> dict[str, float]:
    one = middle(taken)
    return {"clock_s": one.clock_s, "cpu_s": one.cpu_s}
