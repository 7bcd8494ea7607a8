"""What must not be lost again, held in a minute on a busy machine: `python -m benchmarks.bench.ratios`, for `.ci/run`.

Ratios of seconds of the processor between works that take turns in one process, with margins that no neighbour's load uses
up. No absolute time. Exit code 1 where one does not hold.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import torch

from benchmarks.bench.clock import Spent, in_turn, spent
from benchmarks.bench.engines import some_slices
from benchmarks.bench.reading import headers
from benchmarks.phantom_studies import dealt_studies
from pipeline.archive import Decoder, read_volume
from pipeline.config import Config, EngineConfig
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.engine import Engine
from pipeline.study.engine.choice import has_bf16
from pipeline.study.screener import Preparer

ROUNDS = 3
WIDTH = 0.5
"""Of the network: the shape of its work is the same, a quarter of it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A ratio and its bound."""

    what: str
    ratio: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.ratio <= self.at_most


def least(taken: dict[str, list[Spent]]) -> dict[str, float]:
    """Seconds of the processor of the least disturbed round of each."""
    return {name: min(one.cpu_s for one in of) for name, of in taken.items()}


def engines(prepared) -> list[Held]:
    """OpenVINO no slower than torch; mixed faster than fp32 where the hardware computes bf16."""
    network = kept_of(formula_network(WIDTH))
    kinds = ["torch:fp32", "openvino:fp32", *(["openvino:mixed"] if has_bf16("openvino") else [])]
    works: dict[str, Callable[[], Spent]] = {}
    for kind in kinds:
        name, precision = kind.split(":")
        engine = Engine([network], EngineConfig(name=name, precision=precision))
        engine.predict(prepared)
        works[kind] = partial(spent, partial(engine.predict, prepared))
    taken = least(in_turn(works, ROUNDS))
    held = [Held("openvino:fp32 of torch:fp32", taken["openvino:fp32"] / taken["torch:fp32"], 1.05)]
    if "openvino:mixed" in taken:
        held.append(Held("openvino:mixed of openvino:fp32", taken["openvino:mixed"] / taken["openvino:fp32"], 0.9))
    return held


def reading(archive: Path, dealt) -> list[Held]:
    """The chosen slices cost far less than the whole series with pydicom, and headers less than with it."""
    series = dealt.study.candidates[0]
    paths = sorted(archive.rglob("*.dcm"))
    with Decoder() as decoder:
        ours = partial(read_volume, archive, series, range(len(series.slices)), decoder)
        theirs = partial(_whole_volume, paths)
        taken = least(in_turn({"ours": partial(spent, ours), "pydicom": partial(spent, theirs)}, 1 + ROUNDS))
    rate = headers(archive, paths[0].parent.relative_to(archive), ROUNDS)
    return [
        Held("reading the chosen slices, of all by pydicom", taken["ours"] / taken["pydicom"], 0.5),
        Held("reading headers, of pydicom's time", rate["pydicom"] / rate["ours"], 0.7),
    ]


def _whole_volume(paths: list[Path]) -> None:
    slices = [pydicom.dcmread(path) for path in paths]
    np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices])


def measured() -> list[Held]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        (dealt,) = dealt_studies(archive, studies=1, matrix=256, slices=90)
        with Preparer(archive, Config()) as preparer:
            prepared = some_slices(preparer.best(dealt.study).prepared, 1)
        return [*reading(archive, dealt), *engines(prepared)]


def main() -> None:
    """Print a line a ratio; exit with 1 where one does not hold."""
    torch.set_num_threads(1)
    held = measured()
    for one in held:
        print(f"{'holds' if one.holds else 'FAILS'}: {one.what}: {one.ratio:.2f}, at most {one.at_most}")
    sys.exit(not all(one.holds for one in held))


if __name__ == "__main__":
    main()
