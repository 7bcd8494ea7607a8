"""The OpenVINO engine: DRE-Net's trunk compiled for the two shapes it sees; the rest of the network stays in torch.

OpenVINO's Python package reports its use over the network from the moment it is imported; a run makes no connection, so the
module that would do it is barred first.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.study.drenet.network import DETAIL_PX, IMAGE_PX, N_DETAILS
from pipeline.study.drenet.resnet import BLOCKS, Features, ResNet

SHAPES = ((1, 2, IMAGE_PX, IMAGE_PX), (N_DETAILS, 2, DETAIL_PX, DETAIL_PX))
"""The whole slice and its second look; the details of one slice. Shapes that vary would make memory grow."""


def openvino_features(trunk: ResNet, config: EngineConfig, dtype: torch.dtype) -> Features:
    """The trunk (taking planes) in `dtype`. Raises DeviceError where the processor lacks it."""
    openvino = import_openvino()
    core = openvino.Core()
    if dtype == torch.bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(
            f"precision = {config.precision}, but OpenVINO knows no bf16 on this processor: choose fp32, or engine = torch"
        )
    model = _model(openvino, trunk)
    requests: dict[tuple[int, ...], Any] = {}
    for shape in SHAPES:
        model.reshape(shape)
        requests[shape] = core.compile_model(model, "CPU", hints(config, dtype)).create_infer_request()
    return lambda planes_NPHW: _infer(requests[tuple(planes_NPHW.shape)], planes_NPHW)


def _model(openvino: Any, trunk: ResNet) -> Any:
    """The trunk as OpenVINO's graph, written down layer by layer: its converter gives the same bits, two seconds later."""
    ops = openvino.opset13

    def convolved(conv: Any, x: Any) -> Any:
        y = ops.convolution(x, _constant(ops, conv.weight), [*conv.stride], [*conv.padding], [*conv.padding], [*conv.dilation])
        return ops.add(y, _constant(ops, conv.bias.view(1, -1, 1, 1)))

    def block(part: Any, x: Any) -> Any:
        y = ops.relu(convolved(part.conv1, x))
        y = convolved(part.conv3, ops.relu(convolved(part.conv2, y)))
        return ops.relu(ops.add(y, x if part.downsample is None else convolved(part.downsample[0], x)))

    planes = ops.parameter([-1, 2, -1, -1], np.float32)
    map_NCHW = ops.relu(convolved(trunk.conv1, planes))
    map_NCHW = ops.max_pool(map_NCHW, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for number in range(1, len(BLOCKS) + 1):
        for part in getattr(trunk, f"layer{number}"):
            map_NCHW = block(part, map_NCHW)
    return openvino.Model([ops.result(map_NCHW)], [planes], "trunk")


def _constant(ops: Any, weight: Tensor) -> Any:
    return ops.constant(weight.detach().numpy())


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


def _infer(request: Any, planes_NPHW: Tensor) -> Tensor:
    request.infer({0: planes_NPHW.contiguous().numpy()})
    return torch.from_numpy(request.get_output_tensor(0).data).clone()  # the request writes over its output next time
