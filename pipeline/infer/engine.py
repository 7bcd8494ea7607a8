"""One rank's engine: prepared slices -> what every network says of them.

A slice is its own batch (1 x 448, 6 x 224, 1 x 448), so that neither its neighbours nor the number of ranks can move a bit.
In bf16 only the trunk is; the proposal pyramid, the choice of details and the final linear layers stay fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.errors import Reason, StudyError
from pipeline.infer.device import open_device
from pipeline.infer.fast import fast_network, planes
from pipeline.model import DreNet, DreNetOutput
from pipeline.model.drenet import PAD_PX
from pipeline.records import Box, Detail, PreparedStudy, SlicePrediction


class Engine:
    """One replica of every network, on one device."""

    def __init__(self, networks: Sequence[DreNet], config: EngineConfig, *, local_rank: int = 0) -> None:
        self._device = open_device(config, local_rank)
        self._networks = [fast_network(network, config, self._device) for network in networks]
        self._positive = [network.metadata.positive for network in networks]

    def predict(
        self, prepared: PreparedStudy, tick: Callable[[], None] = lambda: None
    ) -> tuple[tuple[SlicePrediction, ...], ...]:
        """[slice][network]; `tick` is called between slices. Raises StudyError NONFINITE_OUTPUT."""
        images, zooms = self._on_device(prepared.images), self._on_device(prepared.zoom)
        rows = []
        for row, lung in enumerate(prepared.lung):
            rows.append(self._predict_slice(images[row : row + 1], zooms[row : row + 1], lung_integral(lung)))
            tick()
        return tuple(rows)

    def _on_device(self, grey_SHW: npt.NDArray[np.uint8]) -> Tensor:
        """A study's slices as they are, a byte a pixel: the device makes planes of them."""
        grey = torch.from_numpy(grey_SHW)
        return grey.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else grey

    @torch.inference_mode()
    def _predict_slice(self, image: Tensor, zoom: Tensor, covered: npt.NDArray[np.int64]) -> tuple[SlicePrediction, ...]:
        pairs = zip(self._networks, self._positive, strict=True)
        return tuple(_prediction(network(planes(image), planes(zoom)), positive, covered) for network, positive in pairs)


def _prediction(output: DreNetOutput, positive: int, covered: npt.NDArray[np.int64]) -> SlicePrediction:
    """One slice's output as a record."""
    probability = float(torch.softmax(output.concat_logits, dim=1)[0, positive])
    parts = torch.softmax(output.part_logits, dim=2)[0, :, positive].tolist()
    scores, weights = output.detail_score[0].tolist(), output.attention[0].tolist()
    if not np.isfinite([probability, *parts, *scores]).all():
        raise StudyError(Reason.NONFINITE_OUTPUT, "infer")
    boxes = [Box(*(float(edge - PAD_PX) for edge in box)) for box in output.boxes[0].tolist()]
    return SlicePrediction(
        probability,
        tuple(
            Detail(box, box, score, weight, part, lung_share(covered, box))
            for box, score, weight, part in zip(boxes, scores, weights, parts, strict=True)
        ),
    )


def lung_integral(lung_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """[H + 1, W + 1]: lung pixels above and left of each corner."""
    return np.pad(lung_HW.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def lung_share(covered: npt.NDArray[np.int64], box: Box) -> float:
    """Share of the box's area that shows original lung; what lies outside the picture shows none."""
    height, width = covered.shape[0] - 1, covered.shape[1] - 1
    top, bottom = (int(np.clip(edge, 0, height)) for edge in (box.top, box.bottom))
    left, right = (int(np.clip(edge, 0, width)) for edge in (box.left, box.right))
    inside = covered[bottom, right] - covered[top, right] - covered[bottom, left] + covered[top, left]
    return float(inside / ((box.bottom - box.top) * (box.right - box.left)))
