"""Screen one synthetic archive on one and on two one-thread ranks in turn: `python benchmarks/screen.py [width] [studies]`.

Prints the median seconds of a study by stage, the studies per second of each world (first study begun to last one finished, so
without start-up) and their ratio. Width 1 is the full network; formula weights cost what trained ones do.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from pipeline.mpi.front import start_ranks
from pipeline.phantom import write_archive
from pipeline.pseudonym import read_or_make_key
from pipeline.run.journal import journal_files, read_lines
from pipeline.study.drenet import formula_network, save_checkpoint

REPEATS = 3


def measured(folder: Path, archive: Path, weights: Path, ranks: int) -> tuple[float, list[dict[str, float]]]:
    """(studies per second, the studies' seconds by stage) of one run."""
    run = Path(tempfile.mkdtemp(dir=folder))
    read_or_make_key(folder / "key")
    start_ranks(
        ranks, ["screen", str(archive), "--weights", str(weights), "--out", str(run), "--key-file", str(folder / "key")]
    )
    lines = [line for path in journal_files(run) for _, line in read_lines(path) if line.seconds]
    begun = min(line.ended - sum(line.seconds.values()) for line in lines)
    return len(lines) / (max(line.ended for line in lines) - begun), [line.seconds for line in lines]


def main() -> None:
    """Write the archive, run in turn, tell."""
    width = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    n_studies = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "archive", studies=n_studies, matrix=512, slices=40)
        save_checkpoint(formula_network(width), folder / "weights.safetensors")
        rates: dict[int, list[float]] = {1: [], 2: []}
        stages: list[dict[str, float]] = []
        for _ in range(REPEATS):
            for ranks, seen in rates.items():
                rate, seconds = measured(folder, folder / "archive", folder / "weights.safetensors", ranks)
                seen.append(rate)
                stages += seconds if ranks == 1 else []
        print(f"width {width:g}, {n_studies} studies, {REPEATS} runs in turn")
        for stage in stages[0]:
            print(f"  {stage:<10}{statistics.median(row[stage] for row in stages):8.3f} s a study, median, one rank")
        print(f"  {'study':<10}{statistics.median(sum(row.values()) for row in stages):8.3f} s a study, median, one rank")
        one, two = (statistics.median(rates[ranks]) for ranks in (1, 2))
        ratios = [b / a for a, b in zip(rates[1], rates[2], strict=True)]
        print(
            f"  one rank {one:.3f} studies/s, two ranks {two:.3f}; ratio of each pair {', '.join(f'{r:.2f}' for r in ratios)}"
        )


if __name__ == "__main__":
    main()
