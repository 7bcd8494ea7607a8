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
from pipeline.config import Config, EngineConfig
from pipeline.errors import DeviceError
from pipeline.records import PreparedStudy
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.engine import Engine
from pipeline.study.engine.choice import has_bf16
from pipeline.study.screener import Preparer

PRECISIONS = {"fp32": torch.float32, "mixed": None, "bf16": torch.bfloat16}
FIRST_LOOK = 2 / 7
"""Of a slice's work: one look at the whole of seven of that size; in mixed precision it is the part in fp32."""
PAPER_S = 30.0


def measure(scratch: Path, *, slices: int, repeats: int, width: float) -> dict[str, Any]:
    """Seconds of the processor of `slices` scored slices of a study, the engines and the peaks taking turns."""
    prepared, stages = prepared_study(scratch, slices, repeats)
    precisions = PRECISIONS if has_bf16("torch") else {"fp32": torch.float32}
    peaks = {name: Peak(dtype) for name, dtype in precisions.items() if dtype}
    works: dict[str, Callable[[], Spent]] = {}
    refused = {}
    network = kept_of(formula_network(width))
    for name, precision in product(("torch", "openvino"), precisions):
        try:
            engine = Engine([network], EngineConfig(name=name, precision=precision))
        except DeviceError as error:
            refused[f"{name}:{precision}"] = str(error)
            continue
        engine.predict(some_slices(prepared, 1))  # the first of a shape prepares its memory
        works[f"{name}:{precision}"] = lambda engine=engine: spent(lambda: engine.predict(prepared))
    for name, peak in peaks.items():
        works[f"peak {name}"] = lambda peak=peak: spent(peak.try_again)
    taken = in_turn(works, repeats)
    n_slices = len(prepared.images)
    return {
        "slices": n_slices,
        "width": width,
        "flop_a_slice": flop_a_slice(width),
        "stages": stages,
        "peak_flops": {name: peak.flops for name, peak in peaks.items()},
        "engines": {name: _row(name, of, n_slices * flop_a_slice(width), peaks) for name, of in taken.items() if ":" in name},
        "refused": refused,
        "seed": 0,
    }


def prepared_study(scratch: Path, slices: int, repeats: int) -> tuple[PreparedStudy, dict[str, float]]:
    """The first `slices` scored slices of a study; median seconds of the processor of each stage of the whole study."""
    archive = scratch / "engines" / "archive"
    archive.parent.mkdir()
    (dealt,) = dealt_studies(archive, studies=1, matrix=512, slices=40)
    rows = []
    with Preparer(archive, Config()) as preparer:
        for _ in range(1 + repeats):
            watch = ProcessorWatch()
            prepared = preparer.best(dealt.study, watch).prepared
            rows.append(watch.seconds)
    return some_slices(prepared, slices), {stage: statistics.median(row[stage] for row in rows[1:]) for stage in rows[0]}


def some_slices(prepared: PreparedStudy, n: int) -> PreparedStudy:
    """The first of them."""
    rows = {name: getattr(prepared, name)[:n] for name in ("images", "zoom", "lung", "slice_index", "z_mm", "crops")}
    return PreparedStudy(**rows, lung_area_mm2=prepared.lung_area_mm2[:n])


def _row(name: str, taken: list[Spent], n_flop: float, peaks: dict[str, Peak]) -> dict[str, float]:
    """The share is that of the least disturbed round, as the peak is."""
    least_s = least_seconds(name.partition(":")[2], n_flop, {of: peak.flops for of, peak in peaks.items()})
    one = middle(taken)
    return {"cpu_s": one.cpu_s, "clock_s": one.clock_s, "share_of_peak": least_s / min(each.cpu_s for each in taken)}


def least_seconds(precision: str, n_flop: float, peak_flops: dict[str, float]) -> float:
    """What so many operations would take at the peaks: no engine of this precision can be faster."""
    in_fp32 = {"fp32": 1.0, "mixed": FIRST_LOOK, "bf16": 0.0}[precision]
    fp32_s = in_fp32 / peak_flops["fp32"]
    bf16_s = (1 - in_fp32) / peak_flops["bf16"] if in_fp32 < 1 else 0.0
    return n_flop * (fp32_s + bf16_s)
