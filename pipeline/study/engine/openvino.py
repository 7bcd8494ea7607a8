"""The OpenVINO engine: DRE-Net's trunk compiled for the two shapes it sees; the rest of the network stays in torch.

OpenVINO's Python package reports its use over the network from the moment it is imported; a run makes no connection, so the
module that would do it is barred first.

Graphs are compiled in a thread while the first study is read, without Python's lock. The thread inherits how its maker takes
denormal numbers. Who computes first waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.study.drenet.network import DETAIL_PX, IMAGE_PX, N_DETAILS, Rounding
from pipeline.study.drenet.resnet import BLOCKS, Features, ResNet

DETAILS = (N_DETAILS, 2, DETAIL_PX, DETAIL_PX)
WHOLE = (1, 2, IMAGE_PX, IMAGE_PX)
"""A slice, or its second look. Shapes that vary would make memory grow."""
Shape = tuple[int, ...]
Requests = Mapping[Shape, Any]
"""A compiled graph for each shape, ready to compute."""
TINY = 1e-6
"""The least that a range of rounded numbers may be wide, where all of them are 0."""


def openvino_features(trunk: ResNet, config: EngineConfig, dtype: torch.dtype) -> Features:
    """The trunk (taking planes) in `dtype`. Raises DeviceError where the processor lacks it."""
    if dtype == torch.bfloat16 and not _has_bf16():
        raise DeviceError(
            f"precision = {config.precision}, but OpenVINO knows no bf16 on this processor: choose fp32, or engine = torch"
        )
    return _compiled_meanwhile(partial(_exact, trunk, config, dtype))


def _has_bf16() -> bool:
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _exact(trunk: ResNet, config: EngineConfig, dtype: torch.dtype) -> Requests:
    openvino = import_openvino()
    core = openvino.Core()
    model = _model(openvino, trunk, _Exact(openvino.opset13))
    requests: dict[Shape, Any] = {}
    for shape in (WHOLE, DETAILS):
        model.reshape(shape)
        requests[shape] = core.compile_model(model, "CPU", hints(config, dtype)).create_infer_request()
    return requests


def rounded_features(trunk: ResNet, config: EngineConfig, roundings: Sequence[Rounding]) -> Features:
    """The trunk (taking planes) in int8, each of DETAILS and WHOLE rounded as `roundings` says."""
    return _compiled_meanwhile(partial(_rounded, trunk, config, roundings))


def _rounded(trunk: ResNet, config: EngineConfig, roundings: Sequence[Rounding]) -> Requests:
    openvino = import_openvino()
    core = openvino.Core()
    requests: dict[Shape, Any] = {}
    for shape, rounding in zip((DETAILS, WHOLE), roundings, strict=True):
        model = _model(openvino, trunk, _Rounded(openvino.opset13, rounding))
        model.reshape(shape)
        requests[shape] = core.compile_model(model, "CPU", hints(config, torch.float32)).create_infer_request()
    return requests


def _compiled_meanwhile(compiled: Callable[[], Requests]) -> Features:
    pool = ThreadPoolExecutor(1)
    features = partial(_infer, pool.submit(compiled))
    pool.shutdown(wait=False)
    return features


class _Exact:
    """How the numbers of a graph are kept: as they are."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def constant(self, values: Tensor) -> Any:
        return self._ops.constant(values.detach().numpy())

    def weight(self, conv: Any) -> Any:
        return self.constant(conv.weight)

    def activation(self, x: Any) -> Any:
        return x

    def result(self, map_NCHW: Any) -> Any:
        return map_NCHW


class _Rounded(_Exact):
    """Weights in 255 steps, for each output channel, and activations, none of which is negative, in 256 steps up to their top.

    Activations are asked for in the network's order. The first convolution, the shortcuts and all sums stay fp32.
    """

    def __init__(self, ops: Any, rounding: Rounding) -> None:
        super().__init__(ops)
        self._tops = iter(rounding.tops)
        self._shift = torch.tensor(rounding.shift)

    def weight(self, conv: Any) -> Any:
        top_O111 = conv.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
        low, high = self.constant(-top_O111), self.constant(top_O111)
        return self._ops.fake_quantize(self.constant(conv.weight), low, high, low, high, 255)

    def activation(self, x: Any) -> Any:
        low = np.float32(0)
        high = np.float32(next(self._tops))
        return self._ops.fake_quantize(x, low, high, low, high, 256)

    def result(self, map_NCHW: Any) -> Any:
        return self._ops.add(map_NCHW, self.constant(self._shift.view(1, -1, 1, 1)))


def _model(openvino: Any, trunk: ResNet, kept: _Exact) -> Any:
    """The trunk as OpenVINO's graph, written down layer by layer: its converter gives the same bits, two seconds later."""
    ops = openvino.opset13

    def convolved(conv: Any, x: Any, weight: Any) -> Any:
        y = ops.convolution(x, weight, [*conv.stride], [*conv.padding], [*conv.padding], [*conv.dilation])
        return ops.add(y, kept.constant(conv.bias.view(1, -1, 1, 1)))

    def block(part: Any, x: Any) -> Any:
        seen = kept.activation(x)
        y = kept.activation(ops.relu(convolved(part.conv1, seen, kept.weight(part.conv1))))
        y = kept.activation(ops.relu(convolved(part.conv2, y, kept.weight(part.conv2))))
        y = convolved(part.conv3, y, kept.weight(part.conv3))
        past = x
        if part.downsample is not None:
            past = convolved(part.downsample[0], seen, kept.weight(part.downsample[0]))
        return ops.relu(ops.add(y, past))

    planes = ops.parameter([-1, 2, -1, -1], np.float32)
    map_NCHW = ops.relu(convolved(trunk.conv1, planes, kept.constant(trunk.conv1.weight)))
    map_NCHW = ops.max_pool(map_NCHW, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for number in range(1, len(BLOCKS) + 1):
        for part in getattr(trunk, f"layer{number}"):
            map_NCHW = block(part, map_NCHW)
    return openvino.Model([ops.result(kept.result(map_NCHW))], [planes], "trunk")


def import_openvino() -> Any:
    """The library without its telemetry; it then falls back to a stub of its own that does nothing."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def hints(config: EngineConfig, dtype: torch.dtype) -> dict[str, object]:
    """How a graph is compiled: one stream of so many threads, and never another precision than asked for."""
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": config.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # pinned, all ranks of a node would share the first core
    }


def _infer(compiling: Future[Requests], planes_NPHW: Tensor) -> Tensor:
    try:
        request = compiling.result()[tuple(planes_NPHW.shape)]
    except RuntimeError as error:
        raise DeviceError("OpenVINO cannot compile the network on this processor: choose engine = torch") from error
    request.infer({0: planes_NPHW.contiguous().numpy()})
    return torch.from_numpy(request.get_output_tensor(0).data).clone()  # the request writes over its output next time
