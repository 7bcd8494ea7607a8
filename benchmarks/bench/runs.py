"""(b, c, d) Whole runs of `drenet screen` on one archive, from DICOM to tables, by ranks and precision, beside the plain way.

A run's studies a second are those from the first study begun to the last one finished; indexing, start and report are in the
run's seconds on the clock, told apart. The plain way starts a process a study, as many at a time as there are ranks.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.clock import spent_by_children
from benchmarks.bench.machine import ROOT
from pipeline.mpi.front import start_ranks
from pipeline.phantom import write_archive
from pipeline.pseudonym import read_or_make_key
from pipeline.records import Line
from pipeline.run.journal import journal_files, read_lines
from pipeline.study.drenet import formula_network, save_checkpoint
from pipeline.study.engine.choice import has_bf16

RELEASE_BEFORE = "torch:fp32"
"""What the release before computed with: its engine is still here, and the rest of it is not."""
PLAIN = "plain"
ENDED_WELL = (0, os.EX_TEMPFAIL)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: studies, and how many a second; seconds from its start to its end, of the processor, and of a study by stage."""

    n_studies: int
    studies_a_second: float
    clock_s: float
    cpu_s: float
    stages: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bed:
    """An archive, a checkpoint, and a folder for the runs."""

    folder: Path
    archive: Path
    checkpoint: Path

    @classmethod
    def made(cls, folder: Path, *, studies: int, width: float, matrix: int = 512, slices: int = 40) -> Bed:
        """Synthetic studies and formula weights: the work is that of trained ones."""
        folder.mkdir()
        write_archive(folder / "archive", studies=studies, matrix=matrix, slices=slices)
        save_checkpoint(formula_network(width), folder / "weights.safetensors")
        read_or_make_key(folder / "key")
        return cls(folder, folder / "archive", folder / "weights.safetensors")

    def screened(self, name: str, ranks: int) -> Run:
        """One run with the engine and precision `name`, as in openvino:mixed."""
        number = sum(1 for _ in self.folder.glob("run-*"))
        out = self.folder / f"run-{number:03d}"
        config = self.folder / f"{name.replace(':', '-')}.toml"
        engine, precision = name.split(":")
        config.write_text(f'[engine]\nname = "{engine}"\nprecision = "{precision}"\n')
        request = ["screen", self.archive, "--out", out, "--weights", self.checkpoint, "--config", config]
        code = 0

        def run() -> None:
            nonlocal code
            code = start_ranks(ranks, [*map(str, request), "--key-file", str(self.folder / "key")])

        taken = spent_by_children(run)
        if code not in ENDED_WELL:
            raise SystemExit(f"a run on {ranks} ranks ended with {code}")
        lines = [line for path in journal_files(out) for _, line in read_lines(path) if line.seconds]
        stages = {stage: statistics.median(line.seconds.get(stage, 0.0) for line in lines) for stage in lines[0].seconds}
        return Run(len(lines), rate_of(lines), taken.clock_s, taken.cpu_s, stages)

    def plainly(self, at_once: int) -> Run:
        """The same studies, a process each, `at_once` of them at a time."""
        folders = sorted({path.parent for path in self.archive.rglob("*.dcm")})
        command = [sys.executable, "-m", "benchmarks.bench.plain", self.checkpoint]
        single = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

        def screen(folder: Path) -> None:
            subprocess.run([*command, folder], check=True, stdout=subprocess.DEVNULL, env=single, cwd=ROOT)

        def run() -> None:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(screen, folders))

        taken = spent_by_children(run)
        return Run(len(folders), len(folders) / taken.clock_s, taken.clock_s, taken.cpu_s, {})


def rate_of(lines: Sequence[Line]) -> float:
    """Studies a second from the first begun to the last finished."""
    begun = min(line.ended - sum(line.seconds.values()) for line in lines)
    return len(lines) / (max(line.ended for line in lines) - begun)


def measure(scratch: Path, *, studies: int, repeats: int, pairs: int, ranks: Sequence[int], width: float) -> dict[str, Any]:
    """Runs of every kind in turn; and pairs of one rank and of each other number, of which the first are those of the turns."""
    fastest = "openvino:mixed" if has_bf16("openvino") else "openvino:fp32"
    kinds = list(dict.fromkeys([RELEASE_BEFORE, "openvino:fp32", fastest]))
    bed = Bed.made(scratch / "runs", studies=studies, width=width)
    of_kind: dict[str, list[Run]] = {kind: [] for kind in (*kinds, PLAIN)}
    of_ranks: dict[int, list[Run]] = {n: [] for n in ranks}
    for number in range(max(repeats, pairs)):
        if number < repeats:
            for kind in kinds:
                of_kind[kind].append(bed.screened(kind, 2))
                _say(kind, of_kind[kind][-1])
            of_kind[PLAIN].append(bed.plainly(2))
            _say(PLAIN, of_kind[PLAIN][-1])
        if number < pairs:
            for n, seen in of_ranks.items():
                seen.append(bed.screened(fastest, n))
                _say(f"{fastest} on {n} ranks", seen[-1])
    return {
        "studies": studies,
        "width": width,
        "fastest": fastest,
        "kinds": {kind: [asdict(run) for run in runs] for kind, runs in of_kind.items()},
        "ranks": {str(n): [asdict(run) for run in runs] for n, runs in of_ranks.items()},
        "seed": 0,
    }


def growth(scratch: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """A slim network over small synthetic studies on two ranks, archives of `sizes` studies."""
    told = {}
    for n in sizes:
        bed = Bed.made(scratch / f"growth-{n}", studies=n, width=1 / 16, matrix=128, slices=26)
        run = bed.screened("openvino:fp32", 2)
        told[str(n)] = asdict(run)
        _say(f"{n} small studies", run)
    return {"runs": told, "seed": 0}


def ratios(over: Sequence[dict[str, float]], under: Sequence[dict[str, float]], what: str = "studies_a_second") -> list[float]:
    """What each round's run gained over the other's."""
    return [one[what] / other[what] for one, other in zip(over, under, strict=False)]


def _say(name: str, run: Run) -> None:
    print(f"{name}: {run.studies_a_second:.3f} studies/s, {run.cpu_s:.0f} s of the processor", flush=True)
