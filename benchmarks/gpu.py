"""One GPU: what a slice costs it, and how many studies a second ranks that share it screen.

    python benchmarks/gpu.py [STUDIES]

First each engine alone in each precision: `cuda`, a study's slices as one batch, and `cudagraph`, 16 slots of the GPU's owner.
Then whole runs from DICOM to tables: `cudagraph` in every precision on 1, 4 and as many ranks as there are cores, `cuda` in
fp32 on those; with the share of time the GPU computes. The digest must not depend on the ranks. Formula weights of full width:
the scores mean nothing, the work is that of trained ones. What is told is flushed line by line, for who has ten minutes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from pipeline.config import EngineConfig
from pipeline.mpi.front import start_ranks
from pipeline.pseudonym import read_or_make_key
from pipeline.records import Box, PreparedStudy
from pipeline.run.journal import journal_files, read_lines
from pipeline.study.drenet import formula_network, save_checkpoint
from pipeline.study.engine import Engine

N_SLICES, REPEATS = 12, 9
ENGINES = ("cuda", "cudagraph")
PRECISIONS = ("bf16", "mixed", "fp32")


def main() -> None:
    """Print both tables."""
    n_studies, cores = int(sys.argv[1]) if len(sys.argv) > 1 else 96, len(os.sched_getaffinity(0))
    print(torch.cuda.get_device_name(0), torch.__version__)
    network = formula_network()
    for name in ENGINES:
        for precision in PRECISIONS:
            seconds = engine_seconds(Engine([network], EngineConfig(name=name, precision=precision)))
            print(f"{name} {precision}: {1000 * seconds / N_SLICES:.2f} ms a slice, {1 / seconds:.1f} studies/s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(network, folder / "weights.safetensors")
        start_ranks(cores, ["phantom", str(folder / "archive"), "--cohort", f"0,0,{n_studies}", "--matrix", "512"])
        plan = [("cudagraph", precision, ranks) for precision in PRECISIONS for ranks in sorted({1, 4, cores}, reverse=True)]
        for engine, precision, ranks in [*plan, ("cuda", "fp32", cores)]:
            (folder / "config.toml").write_text(f'[engine]\nname = "{engine}"\nprecision = "{precision}"\n')
            with Watched() as busy:
                told = screened(folder, f"{engine}-{precision}-{ranks}", ranks)
            print(f"{engine} {precision}, {ranks} ranks: {told}; GPU busy {busy.share():.0%}", flush=True)


class Watched:
    """How busy the GPU says it is, asked twice a second while the body runs; its start-up is in it."""

    def __enter__(self) -> "Watched":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=500"]
        self._asked = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.terminate()
        self._said, _ = self._asked.communicate()

    def share(self) -> float:
        """The mean over all answers, of 1."""
        return statistics.mean(float(line) for line in self._said.split()) / 100


def engine_seconds(engine: Engine) -> float:
    """Median seconds of one study of noise, after two to warm up."""
    draw = np.random.default_rng(0)
    images, zoom = (draw.integers(0, 256, (N_SLICES, size, size), dtype=np.uint8) for size in (448, 600))
    whole, places, crops = np.ones((N_SLICES, 448, 448), bool), np.arange(N_SLICES), (Box(0, 0, 448, 448),) * N_SLICES
    study = PreparedStudy(images, zoom, whole, places.astype(np.int32), places * 5.0, crops, places + 1e4)
    seconds = []
    for _ in range(2 + REPEATS):
        begun = perf_counter()
        engine.predict(study)
        seconds.append(perf_counter() - begun)
    return statistics.median(seconds[2:])


def screened(folder: Path, name: str, ranks: int) -> str:
    """Studies a second from the first begun to the last finished, seconds of a study by stage, and the payload's digest."""
    run = folder / name
    arguments = ["--weights", str(folder / "weights.safetensors"), "--config", str(folder / "config.toml")]
    read_or_make_key(folder / "key")
    start_ranks(ranks, ["screen", str(folder / "archive"), "--out", str(run), "--key-file", str(folder / "key"), *arguments])
    lines = [line for path in journal_files(run) for _, line in read_lines(path) if line.seconds]
    begun = min(line.ended - sum(line.seconds.values()) for line in lines)
    rate = len(lines) / (max(line.ended for line in lines) - begun)
    stages = {stage: statistics.median(line.seconds[stage] for line in lines) for stage in lines[0].seconds}
    told = [sys.executable, "-m", "pipeline", "gather", str(run), "--digest"]
    digest = subprocess.run(told, capture_output=True, text=True, check=True).stdout.split()[-1]
    return f"{rate:.2f} studies/s; {', '.join(f'{k} {v:.3f}' for k, v in stages.items())} s; digest {digest[:12]}"


if __name__ == "__main__":
    main()
