"""One full-width study, DICOM to score, on one core, by every CPU engine: the table of docs/performance.md.

    python benchmarks/speed.py [ENGINE:PRECISION ...]

The engines take turns, so that a busy moment of the machine falls on all of them; medians of REPEATS, in seconds on the clock
and in seconds of the processor, which a neighbour's load moves less. The slices are taken from the middle of the lung, so that
all 15 are kept. Formula weights: the scores mean nothing, the work is that of a trained network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from phantom_studies import dealt_studies

from pipeline.config import Config, EngineConfig, SliceConfig
from pipeline.errors import DeviceError
from pipeline.records import DealtStudy, Line
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.checkpoint import checkpoint_bytes
from pipeline.study.screener import Screener

REPEATS = 3
ENGINES = [(name, precision) for name in ("torch", "openvino") for precision in ("fp32", "mixed", "bf16")]
PAPER_S = 30.0


def main() -> None:
    """Print one row an engine: seconds a study, and where they went."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    weights = checkpoint_bytes(formula_network())
    slices = SliceConfig(first=0.15, last=0.85, keep_fraction=0.0)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        (study,) = dealt_studies(archive, studies=1, matrix=512, slices=40)
        screeners = {}
        for name, precision in [word.split(":") for word in sys.argv[1:]] or ENGINES:
            begun = perf_counter()
            config = Config(engine=EngineConfig(name=name, precision=precision), slices=slices)
            try:
                screeners[name, precision] = Screener(archive, config, [weights])
            except DeviceError as error:
                print(f"{name} {precision}: not on this processor ({error})")
                continue
            print(f"{name} {precision}: ready in {perf_counter() - begun:.1f} s", flush=True)
        taken = {engine: [] for engine in screeners}
        for _ in range(REPEATS):
            for engine, screener in screeners.items():
                taken[engine].append(timed(screener, study))
    for (name, precision), runs in taken.items():
        clock, processor, line = sorted(runs, key=lambda run: run[1])[REPEATS // 2]
        shares = ", ".join(f"{stage} {spent:.2f}" for stage, spent in line.seconds.items())
        print(
            f"{name} {precision}: {len(line.result.slices)} slices, processor {processor:.2f} s, "
            f"clock {clock:.2f} s ({shares}); the paper: {PAPER_S:.0f} s"
        )


def timed(screener: Screener, study: DealtStudy) -> tuple[float, float, Line]:
    """(seconds on the clock, seconds of the processor, the study's line)."""
    clock, processor = perf_counter(), process_time()
    line = screener.line(study)
    return perf_counter() - clock, process_time() - processor, line


if __name__ == "__main__":
    main()
