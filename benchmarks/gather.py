"""Gather from fabricated journals: `python benchmarks/gather.py [n_studies]` prints seconds and resident memory.

The records are invented (random numbers in the shape of real ones): this measures the machinery, nothing clinical.
"""

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.gather import gather
from pipeline.records import Box, Detail, Facts, ScoredSlice, SlicePrediction, StudyResult
from pipeline.store import Found, Line, encode

N_RANKS = 64
FACTS = Facts("MAKER", "MODEL", "B60f", 1.5, 120.0, 1.5, 320.0, 214)


def fabricated(number: int, draw: np.random.Generator) -> StudyResult:
    """One scored study of 6 to 12 slices, six details each."""
    slices = []
    for place in range(int(draw.integers(6, 13))):
        numbers = draw.random((6, 8)).tolist()
        details = tuple(Detail(Box(*row[:4]), Box(*(448 * edge for edge in row[:4])), *row[4:]) for row in numbers)
        slices.append(ScoredSlice(place * 14, place * 21.3, 41234.5, (SlicePrediction(float(draw.random()), details),)))
    mean = sum(row.predictions[0].probability for row in slices) / len(slices)
    key = f"S{number * 2654435761 % 2**32:010d}".ljust(26, "A")
    return StudyResult(key, f"P{number // 2:025d}", "OK", probabilities=(mean,), n_files=214, facts=FACTS, slices=tuple(slices))


def main() -> None:
    """Fabricate, gather, tell."""
    n_studies = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    draw = np.random.default_rng(0)
    few = [fabricated(number, draw) for number in range(200)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "journal" / "0001").mkdir(parents=True)
        files = [(run / "journal" / "0001" / f"rank-{rank:05d}.jsonl").open("wb") for rank in range(N_RANKS)]
        files[0].write(encode(Line(found=Found(n_studies * 214, ()))))
        for number in range(n_studies):
            result = replace(few[number % 200], study_key=f"S{number * 2654435761 % 2**32:010d}".ljust(26, "A"))
            files[number % N_RANKS].write(encode(Line(result=result, input="0" * 16, ended=float(number))))
        for file in files:
            file.close()
        size = sum(path.stat().st_size for path in run.rglob("*.jsonl"))
        begun, before = time.monotonic(), time.process_time()
        summary = gather(run, ["probability"])
        spent, worked = time.monotonic() - begun, time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{summary.n_studies:,} studies, journals of {size / 1e9:.2f} GB in {N_RANKS} files")
        print(f"  gathered in {spent:.0f} s, of which processor {worked:.0f} s, peak resident {peak:,.0f} MB")
        for name in ("results.h5", "studies.csv", "patients.csv", "slices.parquet"):
            print(f"  {name:<16}{(run / name).stat().st_size / 1e6:>10,.1f} MB")


if __name__ == "__main__":
    main()
