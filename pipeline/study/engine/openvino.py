"""The OpenVINO engine: DRE-Net's trunk compiled for the two shapes it sees; the rest of the network stays in torch.

OpenVINO's Python package reports its use over the network from the moment it is imported; a run makes no connection, so the
module that would do it is barred first.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.study.drenet.network import DETAIL_PX, IMAGE_PX, N_DETAILS
from pipeline.study.drenet.resnet import ResNet
from pipeline.study.engine.fast import Features

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces with torch.jit, which torch calls deprecated
        model = openvino.convert_model(trunk, example_input=torch.zeros(1, 2, 64, 64), input=[-1, 2, -1, -1])
    requests: dict[tuple[int, ...], Any] = {}
    for shape in SHAPES:
        model.reshape(shape)
        requests[shape] = core.compile_model(model, "CPU", _hints(config, dtype)).create_infer_request()
    return lambda planes_NPHW: _infer(requests[tuple(planes_NPHW.shape)], planes_NPHW)


def import_openvino() -> Any:
    """The library without its telemetry; it then falls back to a stub of its own that does nothing."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def _hints(config: EngineConfig, dtype: torch.dtype) -> dict[str, object]:
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
