"""(f) What reading a study costs by its transfer syntax: fifteen slices, decoded, in HU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench.clock import Spent, in_turn, middle, spent
from pipeline.archive import Decoder, read_volume
from pipeline.archive.child import cpu_seconds
from pipeline.config import Config
from pipeline.mpi.world import Alone
from pipeline.phantom import write_archive
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest

SYNTAXES = {
    "uncompressed": None,
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG Lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
}


def measure(scratch: Path, *, repeats: int, matrix: int = 512) -> dict[str, Any]:
    """Milliseconds of a study by syntax, the decode child's among those of the processor."""
    with Decoder() as decoder:
        works = {name: _reading(scratch / f"syntax-{n}", of, matrix, decoder) for n, (name, of) in enumerate(SYNTAXES.items())}
        taken = {name: middle(rounds[1:]) for name, rounds in in_turn(works, 1 + repeats).items()}
    return {"read": {name: {"clock_s": one.clock_s, "cpu_s": one.cpu_s} for name, one in taken.items()}, "seed": 0}


def _reading(folder: Path, syntax: str | None, matrix: int, decoder: Decoder) -> Callable[[], Spent]:
    archive, private = folder / "archive", folder / "private"
    private.mkdir(parents=True)
    write_archive(archive, studies=1, matrix=matrix, slices=40, compress=syntax)
    index(Alone(), archive, Private(private, bytes(32)), Config())
    series = read_manifest(private).study(0).candidates[0]
    read = partial(read_volume, archive, series, range(len(series.slices)), decoder)

    def timed() -> Spent:
        decoder.child.start()
        before = cpu_seconds(decoder.child.pid or 0)
        own = spent(read)
        return Spent(own.clock_s, own.cpu_s + cpu_seconds(decoder.child.pid or 0) - before)

    return timed
