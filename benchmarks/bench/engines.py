"""(a) One full-width study, DICOM to score, on one core: its stages, and the share of the peak that each engine reaches."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench.clock import ProcessorWatch, Spent, in_turn, middle, spent
from benchmarks.bench.peak import Peak, flop_a_slice
from benchmarks.phantom_studies import dealt_studies
from pipeline.config import Config, EngineConfig, SliceConfig
from pipeline.errors import DeviceError
from pipeline.records import PreparedStudy
from pipeline.study.drenet import formula_network
from pipeline.study.engine import Engine
from pipeline.study.engine.device import has_bf16
from pipeline.study.screener import Preparer

PRECISIONS = {"fp32": torch.float32, "mixed": None, "bf16": torch.bfloat16}
FIRST_LOOK = 2 / 7
"""Of a slice's work: one look at the whole of seven of that size; in mixed precision it is the part in fp32."""
PAPER_S = 30.0


def measure(scratch: Path, *, slices: int, repeats: int) -> dict[str, Any]:
    """Seconds of the processor of one study of `slices` scored slices, the engines and the peaks taking turns."""
    prepared, stages = prepared_study(scratch, slices, repeats)
    precisions = PRECISIONS if has_bf16("torch") else {"fp32": torch.float32}
    peaks = {name: Peak(dtype) for name, dtype in precisions.items() if dtype}
    works: dict[str, Callable[[], Spent]] = {}
    refused = {}
    network = formula_network()
    for name, precision in product(("torch", "openvino"), precisions):
        try:
            engine = Engine([network], EngineConfig(name=name, precision=precision))
        except DeviceError as error:
            refused[f"{name}:{precision}"] = str(error)
            continue
        engine.predict(one_slice(prepared))  # the first of a shape prepares its memory
        works[f"{name}:{precision}"] = lambda engine=engine: spent(lambda: engine.predict(prepared))
    for name, peak in peaks.items():
        works[f"peak {name}"] = lambda peak=peak: spent(peak.try_again)
    taken = in_turn(works, repeats)
    n_slices = len(prepared.images)
    return {
        "slices": n_slices,
        "flop_a_slice": flop_a_slice(),
        "stages": stages,
        "peak_flops": {name: peak.flops for name, peak in peaks.items()},
        "engines": {name: _row(name, middle(of), n_slices, peaks) for name, of in taken.items() if ":" in name},
        "refused": refused,
        "seed": 0,
    }


def prepared_study(scratch: Path, slices: int, repeats: int) -> tuple[PreparedStudy, dict[str, float]]:
    """A study of which `slices` slices, from the middle of the lung, are kept; median seconds of the processor a stage."""
    archive = scratch / "engines" / "archive"
    archive.parent.mkdir()
    config = Config(slices=SliceConfig(count=slices, first=0.15, last=0.85, keep_fraction=0.0))
    (dealt,) = dealt_studies(archive, studies=1, matrix=512, slices=40)
    rows = []
    with Preparer(archive, config) as preparer:
        for _ in range(1 + repeats):
            watch = ProcessorWatch()
            prepared = preparer.best(dealt.study, watch).prepared
            rows.append(watch.seconds)
    return prepared, {stage: statistics.median(row[stage] for row in rows[1:]) for stage in rows[0]}


def one_slice(prepared: PreparedStudy) -> PreparedStudy:
    """The first slice alone."""
    rows = {name: getattr(prepared, name)[:1] for name in ("images", "zoom", "lung", "slice_index", "z_mm", "crops")}
    return PreparedStudy(**rows, lung_area_mm2=prepared.lung_area_mm2[:1])


def _row(name: str, taken: Spent, n_slices: int, peaks: dict[str, Peak]) -> dict[str, float]:
    least_s = least_seconds(name.partition(":")[2], n_slices, {of: peak.flops for of, peak in peaks.items()})
    return {"cpu_s": taken.cpu_s, "clock_s": taken.clock_s, "share_of_peak": least_s / taken.cpu_s}


def least_seconds(precision: str, n_slices: int, peak_flops: dict[str, float]) -> float:
    """What the convolutions of `n_slices` slices would take at the peaks: no engine of this precision can be faster."""
    in_fp32 = {"fp32": 1.0, "mixed": FIRST_LOOK, "bf16": 0.0}[precision]
    fp32_s = in_fp32 / peak_flops["fp32"]
    bf16_s = (1 - in_fp32) / peak_flops["bf16"] if in_fp32 < 1 else 0.0
    return n_slices * flop_a_slice() * (fp32_s + bf16_s)
