"""How time and memory of every stage grow with the archive: `python -m benchmarks.scale [--studies N,N] [--files N,N]`.

Index reads real small DICOM files; catalogue, manifest, journals and what follows work on studies fabricated as rows: invented
numbers in the shape of real ones, which measures the machinery, nothing clinical. A stage is a process of its own, so that its
resident memory is its own. Prints a table, and with --out writes OUT.json and OUT.png. Needs some 40 GB a million studies.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.archive import pack
from pipeline.config import Config, results_digest
from pipeline.files import write_whole
from pipeline.records import (
    Box,
    Detail,
    Event,
    Facts,
    Found,
    Line,
    ScoredSlice,
    Series,
    SlicePrediction,
    SliceSource,
    Study,
    StudyResult,
)
from pipeline.run.journal import Journal
from pipeline.run.manifest import Heading, read_manifest, write_manifest
from pipeline.run.resume import compact

N_RANKS, N_DIFFERENT, N_FILES, KEPT, SLICES_A_FOLDER = 64, 200, 214, 15, 50
FACTS = Facts("MAKER", "MODEL", "B60f", 1.5, 120.0, 1.5, 320.0, N_FILES)
NOT_SCORED = (("EXCLUDED", "NO_LUNG_FOUND", "lung"), ("FAILED", "DECODE_ERROR", "decode"))
Measured = dict[str, float]


def key_of(number: int, domain: str = "S") -> str:
    """A key that looks like a pseudonym, in no order."""
    return f"{domain}{number * 2654435761 % 2**32:010d}".ljust(26, "A")


def scored(number: int, draw: np.random.Generator) -> StudyResult:
    """One scored study of 6 to 12 slices, six details each, some 20 kB as a journal's line."""
    slices = []
    for place in range(int(draw.integers(6, 13))):
        numbers = draw.random((6, 8)).tolist()
        details = tuple(Detail(Box(*row[:4]), Box(*(448 * edge for edge in row[:4])), *row[4:]) for row in numbers)
        slices.append(ScoredSlice(place * 14, place * 21.3, 41234.5, (SlicePrediction(float(draw.random()), details),)))
    mean = sum(row.predictions[0].probability for row in slices) / len(slices)
    return StudyResult(key_of(number), "", "OK", "", (), (mean,), "", N_FILES, "", FACTS, tuple(slices))


def result_of(number: int, few: list[StudyResult]) -> StudyResult:
    """Every tenth study is not scored."""
    keys = {"study_key": key_of(number), "patient_key": key_of(number // 2, "P")}
    if number % 10 == 9:
        status, reason, stage = NOT_SCORED[number // 10 % 2]
        return StudyResult(**keys, status=status, reason=reason, n_files=3, events=(Event("study", stage, reason),))  # type: ignore[arg-type]
    return replace(few[number % len(few)], **keys, label=("covid", "healthy")[number % 2])


def study_of(number: int) -> Study:
    """A manifest's entry: one series, of which 15 slices will be read."""
    uid = f"1.2.826.0.1.3680043.10.1.{10**18 + number}"
    folder = f"archive/{number // 1000:05d}/{number:08d}/series-1"
    read = tuple(
        SliceSource(f"{folder}/IM-{n:05d}.dcm", n * 21.3, 1204, 2**19, rows=512, columns=512, size=525_492, place=n * 14)
        for n in range(KEPT)
    )
    every = every_slice_of(number % N_DIFFERENT)
    series = Series(key_of(number, "R"), f"{uid}.1", number, read, (0.7, 0.7), facts=FACTS, packed=every)
    cost = 1e6 + number * 7919 % 100_003
    return Study(key_of(number), key_of(number // 2, "P"), uid, f"ID{number}", (series,), cost=cost, n_files=N_FILES)


@cache
def every_slice_of(number: int) -> bytes:
    """All slices of a series, packed; times and checks of the files differ as they do on disks."""
    draw = random.Random(number)
    folder = f"archive/00000/{number:08d}/series-1"
    slices = [
        SliceSource(
            f"{folder}/IM-{n:05d}.dcm", -812.5 + 1.5 * n, 1204, 2**19, rows=512, columns=512, size=525_492, place=n,
            mtime_ns=10**18 + n * 10**7 + draw.getrandbits(22), check=f"4096-{draw.getrandbits(64):016x}",
        )
        for n in range(N_FILES)
    ]  # fmt: skip
    return pack(slices)


# ---- the stages; each is measured in a process of its own ----


def catalogue(run: Path, n: int) -> None:
    """Take in what was read of one file a study, then open it again and recall everything."""
    from pipeline.archive import list_folder, scan_file
    from pipeline.run.scan_cache import Catalogue

    write_files(run / "archive", 1)
    read = scan_file(run / "archive", list_folder(run / "archive", "0000/00000000")[1][0])

    def found(number: int) -> Any:
        path = f"archive/{number // 1000:05d}/{number:08d}/1.dcm"
        return msgspec.structs.replace(read, path=path, mtime_ns=number, studies=(f"{read.studies[0][:-8]}{number:08d}",))

    (run / "private").mkdir()
    with Catalogue(run / "private") as first:
        for number in range(n):
            first.add(msgspec.json.encode(found(number)))
    with Catalogue(run / "private") as again:
        _check(not again.recall([found(number) for number in range(n)]) and len(again.study_uids()) == n)


def manifest(run: Path, n: int) -> None:
    """Write the manifest, one study in memory at a time, and read it."""
    (run / "private").mkdir()
    ordered = sorted(range(n), key=key_of)
    write_manifest(run / "private", Heading("/archive", "f" * 16, "none", n * N_FILES), map(study_of, ordered))
    _check(len(read_manifest(run / "private").entries) == n)


def journals(run: Path, n: int) -> None:
    """Write the records of 64 ranks, without waiting for the disk at each."""
    draw = np.random.default_rng(0)
    few = [scored(number, draw) for number in range(N_DIFFERENT)]
    digest = {entry.study_key: entry.digest for entry in read_manifest(run / "private").entries}
    folder = run / "journal" / "0001"
    with ExitStack() as stack:
        ranks = [stack.enter_context(Journal(folder / f"rank-{rank:05d}.jsonl", 1e9)) for rank in range(N_RANKS)]
        ranks[0].append(Line(found=Found(n * N_FILES, (Event("file", "walk", "NOT_DICOM", 7),))))
        for number in range(n):
            result = result_of(number, few)
            seconds = {"read": 0.1, "lung": 0.2, "prepare": 0.05, "infer": 1.0 + number % 5} if result.slices else {}
            line = Line(result=result, input=digest[result.study_key], seconds=seconds, ended=1e9 + number)
            ranks[number % N_RANKS].append(line)
    _describe(run)


def deal(run: Path, n: int) -> None:
    """Root deals every study to 64 ranks and takes in their reports."""
    from pipeline.run.open_studies import StudyReport, StudySource

    source = StudySource(read_manifest(run / "private"), {}, N_RANKS, Config().run)
    n_dealt = 0
    while not source.finished:
        for rank in range(N_RANKS):
            for task in source.give(rank):
                key = msgspec.json.decode(task)["study"]["study_key"]
                source.report(rank, msgspec.json.encode(StudyReport(key, "OK", "", 1, transient=False, seconds=1.0)))
                n_dealt += 1
    _check(n_dealt == n)


def resume(run: Path, n: int) -> None:
    """What root does of a run that has nothing left to do, before it gathers."""
    from pipeline.run.open_studies import Share, StudySource, journal_findings

    known, done = read_manifest(run / "private"), compact(run)
    with Journal(run / "journal" / "0002" / "root.jsonl", fsync_every_s=1.0) as journal:
        journal_findings(journal, known, done, Share().numbers(known))
    source = StudySource(known, done, N_RANKS, Config().run)
    _check(source.finished and len(known.entries) == n)


def merge(run: Path, n: int) -> None:
    """The same when there are two attempts to merge into one journal."""
    _check(len(compact(run)) == n + 1)


def gather(run: Path, n: int) -> None:
    """Journals to tables."""
    from pipeline.screening import gather_run

    _check(gather_run(run).n_studies == n)


def status(run: Path, n: int) -> None:
    """How far the run is."""
    from pipeline.run.status import read_status

    _check(read_status(run).n_done == n)


def report(run: Path, n: int) -> None:
    """The page."""
    from pipeline.report import write_report

    _check(write_report(run).is_file() and n > 0)


def index(archive: Path, n: int) -> None:
    """Read the headers of the files, on as many ranks as this was started with."""
    from pipeline.mpi.launch import connect
    from pipeline.pseudonym import make_key
    from pipeline.screening import index_only

    make_key(archive.parent / "key", may_exist=True)
    found = index_only(connect(), archive, archive.parent / "run", Config(), archive.parent / "key")
    _check(found is None or (found.n_files == n and found.n_ready == n // SLICES_A_FOLDER))


def again(archive: Path, n: int) -> None:
    """Index once more what is known already."""
    index(archive, n)


OF_STUDIES: tuple[Callable[[Path, int], None], ...] = (manifest, deal, journals, status, resume, merge, gather, report)
OF_FILES: tuple[Callable[[Path, int], None], ...] = (index, again)
STAGES = {stage.__name__: stage for stage in (catalogue, *OF_STUDIES, *OF_FILES)}


def _check(sound: bool) -> None:
    if not sound:
        raise SystemExit("a stage did not do what it is measured at")


def _describe(run: Path) -> None:
    from pipeline.run.run_toml import Described, Network

    network = Network("probability", "0" * 64, ("negative", "positive"), "positive", meaning="none: invented numbers")
    described = Described("0", "f" * 16, results_digest(Config()), "0" * 64, [network], {"python": "3"}, Config())
    write_whole(run / "run.toml", msgspec.toml.encode(described))


def write_files(archive: Path, n: int) -> None:
    """`n` DICOM files of 1.4 kB, 50 a folder, each folder a study."""
    import io

    from pydicom import dcmwrite

    from tests.fabricate import images

    templates = []
    for data in images("1", matrix=8, n_slices=SLICES_A_FOLDER):
        stream = io.BytesIO()
        dcmwrite(stream, data, enforce_file_format=True)
        uids = {data[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")}
        templates.append((stream.getvalue(), [uid.encode() for uid in uids], data.PatientID.encode()))
    for start in range(0, n, SLICES_A_FOLDER):
        number = start // SLICES_A_FOLDER
        folder = archive / f"{number // 1000:04d}" / f"{number:08d}"
        folder.mkdir(parents=True)
        for place, (text, uids, patient) in enumerate(templates[: n - start]):
            data = text.replace(patient, f"{number:0{len(patient)}d}".encode())
            for uid in uids:
                data = data.replace(uid, uid[:-8] + f"{number:08d}".encode())
            (folder / f"IM-{place:04d}.dcm").write_bytes(data)


# ---- measuring ----


def measure(stage: str, folder: Path, n: int, ranks: int = 1) -> Measured:
    """Seconds, the processor's seconds and peak resident MB of one stage; those of root, and the MB of the largest worker."""
    own = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--folder", str(folder), "--size", str(n)]
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    said = subprocess.run([*launcher, *own], check=True, stdout=subprocess.PIPE, text=True).stdout
    told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    others = [one["mb"] for one in told if not one["root"]]
    root = next(one for one in told if one.pop("root"))
    return {**root, **({"worker_mb": max(others)} if others else {})}


def run_stage(stage: str, folder: Path, n: int) -> None:
    """One stage in this process, which then tells what it took."""
    from pipeline.mpi.launched import local_rank

    begun, before = time.monotonic(), time.process_time()
    STAGES[stage](folder, n)
    spent, worked = time.monotonic() - begun, time.process_time() - before
    print(json.dumps({"s": spent, "cpu_s": worked, "mb": peak_mb(), "root": local_rank() == 0}), flush=True)


def peak_mb() -> float:
    """The most that was ever resident of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def open_page(run: Path) -> Measured:
    """Seconds until a headless Chromium shows the first rows of the report's table."""
    from tests.browser import chromium

    with chromium() as browser:
        begun = time.monotonic()
        browser.get((run / "report" / "index.html").as_uri())
        while not browser.execute_script("return document.querySelectorAll('#table tbody tr').length"):
            _check(time.monotonic() - begun < 300)
            time.sleep(0.02)
        return {"s": time.monotonic() - begun}


def of_studies(n: int, scratch: Path) -> dict[str, Measured]:
    """Every stage on `n` fabricated studies."""
    taken = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        taken["catalogue"] = _told("catalogue", n, partial(measure, "catalogue", Path(folder), n))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for stage in OF_STUDIES:
            taken[stage.__name__] = _told(stage.__name__, n, partial(measure, stage.__name__, Path(folder), n))
        if shutil.which("chromium"):
            taken["open"] = _told("open", n, partial(open_page, Path(folder)))
    return taken


def of_files(n: int, ranks: int, scratch: Path) -> dict[str, Measured]:
    """Indexing `n` files, and once more when all are known."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        archive = Path(folder) / "archive"
        write_files(archive, n)
        return {
            stage.__name__: _told(stage.__name__, n, partial(measure, stage.__name__, archive, n, ranks)) for stage in OF_FILES
        }


def _told(stage: str, n: int, measured: Callable[[], Measured]) -> Measured:
    taken = measured()
    print(
        f"{stage}, {n:,}: " + ", ".join(f"{name} {value:,.1f}" for name, value in taken.items() if name != "root"), flush=True
    )
    return taken


# ---- telling ----

Growth = dict[str, dict[int, Measured]]


def exponent(of: dict[int, float]) -> float:
    """How the last step grew: 1 is linearly."""
    (low, few), (high, many) = sorted(of.items())[-2:]
    return math.log(many / few) / math.log(high / low)


def as_table(growth: Growth) -> str:
    """Markdown: a row a stage, seconds (the processor's) and MB at each size, and the power that the last step grew with."""
    sizes = sorted({n for of in growth.values() for n in of})
    heads = [f"{n:,}: s (processor), MB" for n in sizes]
    lines = ["| stage | " + " | ".join(heads) + " | grows as n to the |", "|---" * (len(sizes) + 2) + "|"]
    for stage, of in growth.items():
        cells = [_cell(of[n]) if n in of else "" for n in sizes]
        grows = exponent({n: one.get("cpu_s", one["s"]) for n, one in of.items()}) if len(of) > 1 else math.nan
        lines.append(f"| {stage} | " + " | ".join(cells) + f" | {grows:.2f} |")
    return "\n".join(lines)


def _cell(one: Measured) -> str:
    memory = f", {one['mb']:,.0f}" if "mb" in one else ""
    worker = f" (a worker {one['worker_mb']:,.0f})" if "worker_mb" in one else ""
    return f"{one['s']:,.1f}" + (f" ({one['cpu_s']:,.1f})" if "cpu_s" in one else "") + memory + worker


def plot(growth: Growth, path: Path) -> None:
    """Seconds of processor and memory over size, with a dotted line for what grows linearly."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    sizes = sorted({n for of in growth.values() for n in of})
    for axis, name, unit in zip(axes, ("cpu_s", "mb"), ("processor, s", "peak resident memory, MB"), strict=True):
        axis.set_prop_cycle(color=mpl.colormaps["tab20"].colors)
        for stage, of in growth.items():
            points = [(n, one[name]) for n, one in sorted(of.items()) if name in one]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=stage)
        axis.set(xscale="log", yscale="log", xlabel="files (index, again) or studies", ylabel=unit)
        least = axis.dataLim.ymin
        axis.plot(sizes, [least * n / sizes[0] for n in sizes], ":", color="grey", label="linear")
    axes[1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, tell, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=_sizes, default=_sizes("10000,100000"))
    parser.add_argument("--files", type=_sizes, default=_sizes("10000,100000"))
    parser.add_argument("--ranks", type=int, default=1, help="ranks that index")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, help="where OUT.json and OUT.png go; sizes measured before are kept")
    for name in ("--stage", "--folder", "--size"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return run_stage(options.stage, Path(options.folder), int(options.size))
    kept = options.out.with_suffix(".json") if options.out else None
    growth: Growth = read_growth(kept) if kept and kept.exists() else {}
    jobs = [partial(of_files, n, options.ranks, options.scratch) for n in options.files]
    jobs += [partial(of_studies, n, options.scratch) for n in options.studies]
    for job in jobs:
        for stage, one in job().items():
            growth.setdefault(stage, {})[job.args[0]] = one
        if kept:
            kept.write_text(json.dumps(growth, indent=1) + "\n")
            plot(growth, kept.with_suffix(".png"))
    print(as_table(growth))
    return None


def read_growth(path: Path) -> Growth:
    """What an earlier run has written."""
    return {stage: {int(n): one for n, one in of.items()} for stage, of in json.loads(path.read_text()).items()}


def _sizes(text: str) -> list[int]:
    return [int(float(size)) for size in text.split(",") if size]


if __name__ == "__main__":
    main()
