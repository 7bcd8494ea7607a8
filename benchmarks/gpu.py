"""One GPU in ten minutes: what a slice costs it, how many studies a second ranks that share it screen, and whether it is busy.

    python -m benchmarks.gpu [--engine cudagraph] [--studies 48] [--minutes 9] [--out FOLDER]

First the engine alone, `cuda` or `cudagraph`; then whole runs from DICOM to tables on 1, 4 and as many ranks as there
are cores; all in fp32, mixed and bf16. The digest of a precision must not depend on the ranks: exit code 1 where it does. What
would begin after the minutes is left out, and said to be. Formula weights of full width: the scores mean nothing, the work is
that of trained ones. On a processor (--engine torch --width 0.0625) the same steps run, to try the script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.bench.machine import described
from benchmarks.bench.runs import rate_of
from pipeline.config import EngineConfig
from pipeline.mpi.front import start_ranks
from pipeline.pseudonym import read_or_make_key
from pipeline.records import Box, PreparedStudy
from pipeline.run.journal import journal_files, read_lines
from pipeline.study.drenet import formula_network, save_checkpoint
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.engine import Engine

N_SLICES, REPEATS = 12, 9
PRECISIONS = ("fp32", "mixed", "bf16")
BUSY = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]


@dataclass(slots=True)
class Busy:
    """Share of the time in which the GPU computed anything, as its driver samples it; None where there is no driver."""

    samples: list[float] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """The mean, 0 to 1."""
        return statistics.mean(self.samples) / 100 if self.samples else None


def main() -> None:
    """Print both tables; write them as JSON."""
    options = _options()
    ends = monotonic() + 60 * options.minutes
    network = formula_network(options.width)
    found: dict[str, Any] = {"machine": described(), "seed": 0, "engine": {}}
    for precision in PRECISIONS:
        found["engine"][precision] = engine_figures(
            Engine([kept_of(network)], EngineConfig(name=options.engine, precision=precision))
        )
        print(f"engine, {precision}: {found['engine'][precision]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(network, Path(folder) / "weights.safetensors")
        found |= end_to_end(options, Path(folder), ends)
    found["equal_digests"] = {one: len(digests_of(found["runs"], one)) <= 1 for one in PRECISIONS}
    print(f"digests equal: {found['equal_digests']}; left out: {found['left_out'] or 'nothing'}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(found["equal_digests"].values()))


def end_to_end(options: argparse.Namespace, folder: Path, ends: float) -> dict[str, Any]:
    """Whole runs by precision and ranks, those of most ranks first: the long ones are left out where time is short."""
    runs: dict[str, Any] = {}
    left_out = []
    read_or_make_key(folder / "key")
    cohort = ["--cohort", f"0,0,{options.studies}", "--matrix", str(options.matrix), "--slices", "40"]
    start_ranks(options.cores, ["phantom", str(folder / "archive"), *cohort])
    for ranks, precision in product(sorted({1, min(4, options.cores), options.cores}, reverse=True), PRECISIONS):
        name = f"{precision} on {ranks}"
        if monotonic() > ends:
            left_out.append(name)
            continue
        runs[name] = screened(folder, options.engine, precision, ranks)
        print(f"{name} ranks: {runs[name]}", flush=True)
    return {"runs": runs, "left_out": left_out}


def digests_of(runs: dict[str, dict[str, Any]], precision: str) -> set[str]:
    """Of the results of a precision, whatever the ranks."""
    return {one["digest"] for name, one in runs.items() if name.startswith(f"{precision} ")}


def engine_figures(engine: Engine) -> dict[str, float | None]:
    """A study of noise, after two to warm up: ms a slice, studies a second, share of the time that the GPU computes."""
    study = noise()
    seconds = []
    with watched() as busy:
        for _ in range(2 + REPEATS):
            begun = perf_counter()
            engine.predict(study)
            seconds.append(perf_counter() - begun)
    took = statistics.median(seconds[2:])
    return {"ms_a_slice": 1000 * took / N_SLICES, "studies_a_second": 1 / took, "busy": busy.share}


def noise() -> PreparedStudy:
    """A study as the engine takes it, seed 0."""
    draw = np.random.default_rng(0)
    images, zoom = (draw.integers(0, 256, (N_SLICES, size, size), dtype=np.uint8) for size in (448, 600))
    whole, places, crops = np.ones((N_SLICES, 448, 448), bool), np.arange(N_SLICES), (Box(0, 0, 448, 448),) * N_SLICES
    return PreparedStudy(images, zoom, whole, places.astype(np.int32), places * 5.0, crops, places + 1e4)


def screened(folder: Path, engine: str, precision: str, ranks: int) -> dict[str, Any]:
    """Studies a second, seconds of a study by stage, the payload's digest, and how busy the GPU was from start to end."""
    run = folder / f"{precision}-{ranks}"
    config = folder / f"{precision}.toml"
    config.write_text(f'[engine]\nname = "{engine}"\nprecision = "{precision}"\n')
    request = ["screen", folder / "archive", "--out", run, "--weights", folder / "weights.safetensors", "--config", config]
    with watched() as busy:
        code = start_ranks(ranks, [*map(str, request), "--key-file", str(folder / "key")])
    if code:
        raise SystemExit(f"{precision} on {ranks} ranks ended with {code}")
    lines = [line for path in journal_files(run) for _, line in read_lines(path) if line.seconds]
    told = [sys.executable, "-m", "pipeline", "gather", str(run), "--digest"]
    return {
        "studies_a_second": rate_of(lines),
        "stages": {stage: statistics.median(line.seconds.get(stage, 0.0) for line in lines) for stage in lines[0].seconds},
        "digest": subprocess.run(told, capture_output=True, text=True, check=True).stdout.split()[-1],
        "busy": busy.share,
    }


@contextmanager
def watched() -> Iterator[Busy]:
    """The driver asked five times a second while this goes on."""
    busy = Busy()
    if shutil.which(BUSY[0]) is None:
        yield busy
        return
    with subprocess.Popen(BUSY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield busy
        finally:
            process.terminate()
            told = process.communicate()[0].split()
            busy.samples += [float(one) for one in told if one.replace(".", "", 1).isdigit()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=48)
    parser.add_argument("--minutes", type=float, default=9.0, help="no run begins later")
    parser.add_argument("--engine", default="cuda")
    parser.add_argument("--width", type=float, default=1.0, help="of the network")
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="the most ranks")
    parser.add_argument("--out", type=Path, help="a folder for gpu.json")
    options = parser.parse_args()
    if options.engine.startswith("cuda"):
        print(torch.cuda.get_device_name(0), torch.__version__, flush=True)
    return options


if __name__ == "__main__":
    main()
