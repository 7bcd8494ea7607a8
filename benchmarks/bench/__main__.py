"""All speed figures in one run: `python -m benchmarks.bench`, or `make bench`, which makes the peers' environment first.

Writes figures.json, index.md and its plots into --out. At the default size some twenty minutes on two idle cores; --parts and
the sizes make it shorter. What is measured takes turns, in seconds of the processor wherever one process does it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import scale
from benchmarks.bench import engines, plots, reading, runs, syntaxes, tell
from benchmarks.bench.machine import ROOT, described

PARTS = ("engines", "reading", "runs", "growth", "syntaxes")


def main() -> None:
    """Measure the parts asked for, write page and plots after each: what is done is not lost."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    figures: dict[str, Any] = {"machine": described(), "seconds": {}}
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="bench-") as name:
        for part in options.parts:
            begun = perf_counter()
            print(f"== {part}", flush=True)
            figures[part] = _measured(part, options, Path(name))
            figures["seconds"][part] = perf_counter() - begun
            write(figures, options.out)
    print((options.out / "index.md").read_text(encoding="utf-8"))


def write(figures: dict[str, Any], folder: Path) -> None:
    """The figures as they are, as a page, as plots."""
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "index.md").write_text(tell.page(figures), encoding="utf-8")
    plots.draw(figures, folder)


def _measured(part: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "engines": lambda: engines.measure(scratch, slices=options.engine_slices, repeats=options.repeats, width=options.width),
        "reading": lambda: reading.measure(scratch, options.peers, slices=options.slices, repeats=2 * options.repeats + 1),
        "runs": lambda: runs.measure(
            scratch,
            studies=options.studies,
            repeats=options.repeats,
            pairs=options.pairs,
            ranks=options.ranks,
            width=options.width,
        ),
        "growth": lambda: runs.growth(scratch, options.screened) | _scaled(options, scratch),
        "syntaxes": lambda: syntaxes.measure(scratch, repeats=2 * options.repeats + 1),
    }
    return parts[part]()


def _scaled(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The stages of a run on fabricated studies, by benchmarks/scale.py, in a process of its own."""
    sizes, out = ",".join(map(str, options.fabricated)), options.out / "scale"
    out.with_suffix(".json").unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        "--studies",
        sizes,
        "--files",
        sizes,
        "--scratch",
        scratch,
        "--out",
        out,
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    return {"scale": scale.as_table(scale.read_growth(out.with_suffix(".json"))), "fabricated": options.fabricated}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="the Python that has MONAI and SimpleITK")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--repeats", type=int, default=2, help="rounds of engines and runs; reading takes twice as many and one"
    )
    parser.add_argument("--pairs", type=int, default=4, help="rounds of one rank and of each other number")
    parser.add_argument("--ranks", type=_sizes, default=_ranks(), help="numbers of ranks")
    parser.add_argument("--studies", type=int, default=8, help="of a whole run")
    parser.add_argument("--engine-slices", type=int, default=6, help="scored by each engine")
    parser.add_argument("--width", type=float, default=1.0, help="of the network, for a short try")
    parser.add_argument("--slices", type=int, default=300, help="of the series that is read")
    parser.add_argument("--screened", type=_sizes, default=[10, 100], help="archives of small studies that are screened")
    parser.add_argument("--fabricated", type=_sizes, default=[10, 100, 1000, 10_000], help="archives of fabricated studies")
    return parser.parse_args()


def _sizes(text: str) -> list[int]:
    return [int(float(size)) for size in text.split(",") if size]


def _ranks() -> list[int]:
    return [n for n in (1, 2, 4, 8) if n <= len(os.sched_getaffinity(0))]


if __name__ == "__main__":
    main()
