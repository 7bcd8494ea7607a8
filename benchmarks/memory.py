"""Resident memory over many small studies, DICOM to score: it must not grow.

    python benchmarks/memory.py [STUDIES] [ENGINE]

A slim network screens the same few synthetic studies again and again with the stages of a run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from phantom_studies import dealt_studies

from pipeline.config import Config, EngineConfig
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.checkpoint import checkpoint_bytes
from pipeline.study.screener import Screener

WARM, DIFFERENT = 50, 6


def main() -> None:
    """Print the resident memory after the first studies, along the way and at the end, and its growth."""
    n_studies = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    engine = EngineConfig(name=sys.argv[2] if len(sys.argv) > 2 else "torch")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        studies = dealt_studies(archive, studies=DIFFERENT, matrix=128, slices=26)
        with Screener(archive, Config(engine=engine), [checkpoint_bytes(formula_network(1 / 16))]) as screener:
            warm = 0.0
            for number in range(1, n_studies + 1):
                screener.line(studies[number % DIFFERENT])
                warm = resident_mib() if number == WARM else warm
                if number % 50 == 0:
                    print(f"{number} studies: {resident_mib():.1f} MiB", flush=True)
        print(f"growth after the first {WARM}: {100 * (resident_mib() / warm - 1):+.2f} %")


def resident_mib() -> float:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    main()
