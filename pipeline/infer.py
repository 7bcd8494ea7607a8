"""Slices -> predictions: one engine a rank, the same numbers whoever computes them.

A slice is its own batch (1 x 448, 6 x 224, 1 x 448), so that neither its neighbours nor the number of ranks can move a bit.
Batch norms are folded and memory is channels-last; in bf16 only the trunk is, proposals and final linears stay fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError, Reason, StudyError
from pipeline.model import DreNet, DreNetOutput
from pipeline.model.drenet import PAD_PX
from pipeline.model.resnet import fold_batch_norms
from pipeline.records import Box, Detail, PreparedStudy, SlicePrediction

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resolve_engine(name: str) -> str:
    """`auto` -> the engine that this machine has; root does it once for all ranks."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "torch"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("engine = cuda, but this rank sees no CUDA device: check --gpus-per-task, or choose torch")
    return name


def normalise(grey_HW: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [H, W] -> [1, 3, H, W]: scaled to 0..1, then ImageNet's mean and deviation."""
    grey = torch.from_numpy(grey_HW).to(device).float() / 255.0
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (grey.expand(1, 3, *grey.shape) - mean) / std


class FastDreNet(DreNet):
    """The same network made ready for inference: norms folded, channels last, the trunk in `dtype`."""

    dtype = torch.float32

    def trunk(self, image_NCHW: Tensor) -> Tensor:
        """The feature map, computed in `dtype`."""
        features: Tensor = self.pretrained_model(image_NCHW.to(self.dtype, memory_format=torch.channels_last))
        return features


class Engine:
    """One replica of every network, on one device."""

    def __init__(self, networks: Sequence[DreNet], config: EngineConfig, *, local_rank: int = 0) -> None:
        torch.set_num_threads(config.threads)
        torch.set_flush_denormal(True)  # denormal numbers run a hundred times slower
        torch.backends.cudnn.benchmark = False  # autotuning would make results depend on the machine's mood
        name = resolve_engine(config.name)
        index = local_rank % max(1, torch.cuda.device_count())
        self._device = torch.device(f"cuda:{index}" if name == "cuda" else "cpu")
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._networks = [_fast(network, dtype, self._device) for network in networks]
        self._positive = [network.metadata.positive for network in networks]

    def predict(
        self, prepared: PreparedStudy, tick: Callable[[], None] = lambda: None
    ) -> tuple[tuple[SlicePrediction, ...], ...]:
        """[slice][network]; `tick` is called between slices. Raises StudyError NONFINITE_OUTPUT."""
        rows = []
        for row in range(len(prepared.images)):
            rows.append(self._predict_slice(prepared, row))
            tick()
        return tuple(rows)

    @torch.inference_mode()
    def _predict_slice(self, prepared: PreparedStudy, row: int) -> tuple[SlicePrediction, ...]:
        image = normalise(prepared.images[row], self._device)
        zoom = normalise(prepared.zoom[row], self._device)
        covered = lung_integral(prepared.lung[row])
        pairs = zip(self._networks, self._positive, strict=True)
        return tuple(_prediction(network(image, zoom), positive, covered) for network, positive in pairs)


def _fast(network: DreNet, dtype: torch.dtype, device: torch.device) -> FastDreNet:
    fast = FastDreNet(network.metadata.width)
    fast.load_state_dict(deepcopy(network.state_dict()))
    fast.eval().requires_grad_(requires_grad=False)
    fold_batch_norms(fast.pretrained_model)
    features = fast.pretrained_model.fc  # the linear layers stay fp32
    fast.pretrained_model.to(dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    features.float()
    fast.dtype = dtype
    return fast.to(device)


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
