"""OpenVINO as every graph here uses it: no connection is made, never another precision than asked for, the same bits again.

Its Python package reports its use over the network from the moment it is imported; a run makes no connection, so the module
that would do it is barred first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DeviceError

Array = npt.NDArray[np.float32]
EPSILON = 1e-5
"""What keeps a batch norm from dividing by 0."""


def import_openvino() -> Any:
    """The library without its telemetry; it then falls back to a stub of its own that does nothing."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class Compiled:
    """A graph of one input and one output, of shapes that never vary (else memory grows), on `threads` threads.

    Who asks while another thread's answer is computed waits. Raises DeviceError where the processor is not one for it.
    """

    def __init__(self, model: Any, threads: int, precision: str = "f32") -> None:
        hints = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # pinned, all ranks of a node would share the first core
            "CPU_DENORMALS_OPTIMIZATION": True,  # denormal numbers run a hundred times slower
        }
        try:
            self._request = import_openvino().Core().compile_model(model, "CPU", hints).create_infer_request()
        except RuntimeError as error:
            raise DeviceError(
                "OpenVINO cannot compile a network on this processor: choose engine = torch, and judge = none in [lung]"
            ) from error
        self._taken = Lock()

    def __call__(self, given: Array) -> Array:
        """What the graph makes of `given`, as one's own."""
        with self._taken:
            self._request.infer({0: given})
            return np.array(self._request.get_output_tensor(0).data)  # the request writes over its output next time


def has_bf16() -> bool:
    """Whether OpenVINO computes bf16 on this processor."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def folded(weights: Mapping[str, npt.NDArray[Any]], conv: str, norm: str) -> tuple[Array, Array]:
    """Weight [O, I, h, w] and bias [O] of a convolution with the batch norm that follows it worked in; by their names."""
    gain, shift, mean, variance = (
        weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale_O = gain / np.sqrt(variance + EPSILON)
    weight_OIhw: Array = weights[f"{conv}.weight"] * scale_O.astype(np.float32)[:, None, None, None]
    return weight_OIhw, (shift - mean * scale_O).astype(np.float32)
