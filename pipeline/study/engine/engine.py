"""One rank's engine: prepared slices -> what every network says of them.

On processors a slice is its own batch (1 x 448, 6 x 224, 1 x 448): no neighbour can move a bit. On a GPU a study's slices are
one batch, which fills it; what goes together is the study's alone, so that no other study and no number of ranks can either.
With `cudagraph` slices of all ranks share batches, once it is proven that none moves another (docs/design/013-gpu-owner.md).
In bf16 only the trunk is; the proposal pyramid, the choice of details and the final linear layers stay fp32. In mixed the first
look is fp32 too, so that no box moves: bf16 are the looks at the details and the second look, five sevenths of the work; so it
is in int8.

torch is loaded for the engines that compute by it; OpenVINO's needs none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pipeline.config import EngineConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import PreparedStudy, SlicePrediction
from pipeline.study.checkpoint import Checkpoint
from pipeline.study.engine.choice import GPU, check_int8, resolve_engine
from pipeline.study.engine.last_layer import LastLayer
from pipeline.study.engine.rows import Floats, Grey, Lung, SliceRows, prediction


class Pass(Protocol):
    """Computes some slices: image [N, 448, 448], zoom [N, 600, 600], lung [N, 448, 448]."""

    def __call__(self, image_NHW: Grey, zoom_NHW: Grey, lung_NHW: Lung, /) -> SliceRows:
        """What all networks say of them."""


class Engine:
    """One replica of every network, on one device."""

    def __init__(self, checkpoints: Sequence[Checkpoint], config: EngineConfig, *, local_rank: int = 0) -> None:
        check_int8(config)
        self._last = [LastLayer.of(checkpoint) for checkpoint in checkpoints]
        self._pass, self._at_once = opened(checkpoints, config, local_rank)
        self._looks: list[list[Floats]] = []

    def predict(
        self, prepared: PreparedStudy, tick: Callable[[], None] = lambda: None
    ) -> tuple[tuple[SlicePrediction, ...], ...]:
        """[slice][network]; `tick` is called between batches. Raises StudyError NONFINITE_OUTPUT."""
        self._looks = []
        rows = []
        for start in range(0, len(prepared.images), self._at_once):
            some = slice(start, start + self._at_once)
            seen = self._pass(prepared.images[some], prepared.zoom[some], prepared.lung[some])
            rows.append(seen.rows)
            self._looks.append(seen.looks)
            tick()
        rows_NnR = np.concatenate(rows)
        if not np.isfinite(rows_NnR).all():
            raise StudyError(Reason.NONFINITE_OUTPUT, "infer")
        return tuple(tuple(prediction(row) for row in of_slice) for of_slice in rows_NnR.tolist())

    def without_each(self) -> list[list[list[float]]]:
        """[slice][network][look]: the probability of each slice predicted last with one look's features left out.

        The looks are the six details, the slice and the second look, in the order of the last layer's features; all else stays
        as it was. No network is computed again.
        """
        of = [
            [row for looks_NF in batches for row in last.without_each(looks_NF).tolist()]
            for last, batches in zip(self._last, zip(*self._looks, strict=True), strict=True)
        ]
        return [list(rows) for rows in zip(*of, strict=True)]


def opened(checkpoints: Sequence[Checkpoint], config: EngineConfig, local_rank: int) -> tuple[Pass, int]:
    """How slices are computed, and how many at once."""
    name = resolve_engine(config.name)
    if name == "openvino":
        from pipeline.study.engine.openvino import OpenvinoPass

        return OpenvinoPass(checkpoints, config), 1
    if name == "cudagraph":
        from pipeline.study.engine.graph import SLOTS
        from pipeline.study.engine.owned import OwnedPass

        return OwnedPass(checkpoints, config, local_rank), SLOTS
    from pipeline.study.engine.torch_pass import TorchPass

    return TorchPass(checkpoints, config, local_rank), sys.maxsize if name in GPU else 1
