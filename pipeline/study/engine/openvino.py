"""The OpenVINO engine: trunk and proposal pyramid compiled for the shapes they see; the rest is numpy's (`by_slice.py`).

Graphs are compiled in a thread while the first study is read, without Python's lock. Who computes first waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np

from pipeline.config import EngineConfig
from pipeline.errors import ConfigurationError, DeviceError
from pipeline.records import MIN_LUNG_FRACTION
from pipeline.study.anchors import DETAIL_PX, IMAGE_PX, N_DETAILS
from pipeline.study.checkpoint import BLOCKS, Checkpoint, Metadata, Rounding, State
from pipeline.study.compiled import Compiled, folded, has_bf16, import_openvino
from pipeline.study.engine.by_slice import BySlice, Looked
from pipeline.study.engine.planes import over_planes
from pipeline.study.engine.rows import ROW, Floats, Grey, Lung, SliceRows
from pipeline.study.engine.shown import ANCHORS_A4, lung_integral, lung_shares

DETAILS = (N_DETAILS, 2, DETAIL_PX, DETAIL_PX)
WHOLE = (1, 2, IMAGE_PX, IMAGE_PX)
"""A slice, or its second look. Shapes that vary would make memory grow."""
MAP = (IMAGE_PX // 32, IMAGE_PX // 32)
"""Of its feature map."""
Shape = tuple[int, ...]
TINY = 1e-6
"""The least that a range of rounded numbers may be wide, where all of them are 0."""


class OpenvinoPass:
    """All networks, a slice at a time. Raises DeviceError, ConfigurationError."""

    def __init__(self, checkpoints: Sequence[Checkpoint], config: EngineConfig) -> None:
        self._networks = [BySlice(checkpoint, CompiledTrunk(checkpoint, config)) for checkpoint in checkpoints]

    def __call__(self, image_NHW: Grey, zoom_NHW: Grey, lung_NHW: Lung) -> SliceRows:
        """What all networks say of the slices."""
        slices = [self._looked(*given) for given in zip(image_NHW, zoom_NHW, lung_NHW, strict=True)]
        rows = np.stack([rows_nR for rows_nR, _ in slices])
        looks = zip(*(looks for _, looks in slices), strict=True)
        return SliceRows(rows, [np.stack(of_network) for of_network in looks])

    def _looked(self, image_HW: Grey, zoom_HW: Grey, lung_HW: Lung) -> tuple[Any, list[Floats]]:
        share_A = lung_shares(lung_integral(lung_HW), ANCHORS_A4)
        looked = [network(image_HW, zoom_HW, share_A >= MIN_LUNG_FRACTION) for network in self._networks]
        return np.stack([_row(one, share_A[one.anchors]) for one in looked]), [one.looks for one in looked]


def _row(looked: Looked, share_K: Any) -> Any:
    numbers = np.column_stack([looked.boxes, looked.score, looked.attention, looked.part, share_K])
    row = np.concatenate([[looked.probability], numbers.ravel()])
    assert row.shape == (ROW,)
    return row


class CompiledTrunk:
    """A network's trunk and pyramid in the precisions that `config` asks for. Raises DeviceError, ConfigurationError."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        state = checkpoint.state
        if config.precision in ("mixed", "bf16") and not has_bf16():
            raise DeviceError(
                f"precision = {config.precision}, but OpenVINO knows no bf16 on this processor: choose fp32, or engine = torch"
            )
        first = "bf16" if config.precision == "bf16" else "f32"
        later = "bf16" if config.precision in ("mixed", "bf16") else "f32"
        pool = ThreadPoolExecutor(1)
        exact = cache(lambda: trunk_model(state))  # one for all shapes and precisions, made in the thread

        def compiled(model: Callable[[], Any], shape: Shape, precision: str = "f32") -> _Awaited:
            return _Awaited(pool.submit(lambda: Compiled(shaped(model(), shape), config.threads, precision)))

        self.first = compiled(exact, WHOLE, first)
        self.proposals = compiled(lambda: pyramid_model(state), (1, state["attention.weight"].shape[1], *MAP))
        if config.precision == "int8":
            roundings = zip((DETAILS, WHOLE), _roundings(checkpoint.metadata), strict=True)
            self._closer = {shape: compiled(partial(trunk_model, state, one), shape) for shape, one in roundings}
        else:
            again = self.first if later == first else compiled(exact, WHOLE, later)
            self._closer = {WHOLE: again, DETAILS: compiled(exact, DETAILS, later)}
        pool.shutdown(wait=False)

    def closer(self, planes: Floats) -> Floats:
        """The feature map of details, or of the second look: nothing is chosen by it, so it may be rounded."""
        return self._closer[planes.shape](planes)


def shaped(model: Any, shape: Shape) -> Any:
    """`model` for inputs of that shape, until it is given another."""
    model.reshape(shape)
    return model


class _Awaited:
    """A graph that is being compiled. Raises DeviceError."""

    def __init__(self, compiling: Future[Compiled]) -> None:
        self._compiling = compiling

    def __call__(self, given: Floats) -> Floats:
        return self._compiling.result()(given)


def _roundings(metadata: Metadata) -> tuple[Rounding, ...]:
    if not metadata.rounding:
        raise ConfigurationError(
            f"precision = int8, but the network {metadata.task or metadata.sha256[:8]} does not say how it is rounded: "
            "`drenet quantise CHECKPOINT ARCHIVE --out NEW` measures it; or choose mixed or fp32"
        )
    return metadata.rounding


class _Exact:
    """How the numbers of a graph are kept: as they are."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def constant(self, values: Floats) -> Any:
        return self._ops.constant(np.ascontiguousarray(values, np.float32), shared_memory=True)

    def weight(self, weight_OIHW: Floats) -> Any:
        return self.constant(weight_OIHW)

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
        self._shift = np.asarray(rounding.shift)

    def weight(self, weight_OIHW: Floats) -> Any:
        top_O111 = np.maximum(np.abs(weight_OIHW).max(axis=(1, 2, 3), keepdims=True), TINY)
        low, high = self.constant(-top_O111), self.constant(top_O111)
        return self._ops.fake_quantize(self.constant(weight_OIHW), low, high, low, high, 255)

    def activation(self, x: Any) -> Any:
        low = np.float32(0)
        high = np.float32(next(self._tops))
        return self._ops.fake_quantize(x, low, high, low, high, 256)

    def result(self, map_NCHW: Any) -> Any:
        return self._ops.add(map_NCHW, self.constant(self._shift.reshape(1, -1, 1, 1)))


def trunk_model(state: State, rounding: Rounding | None = None) -> Any:
    """The trunk as OpenVINO's graph, written down layer by layer: its converter gives the same bits, two seconds later."""
    openvino = import_openvino()
    ops = openvino.opset13
    kept = _Rounded(ops, rounding) if rounding else _Exact(ops)

    def convolved(x: Any, weight: Any, bias_O: Floats, stride: int = 1) -> Any:
        margin = [weight.shape[2] // 2] * 2
        return _with_bias(ops, ops.convolution(x, weight, [stride] * 2, margin, margin, [1, 1]), bias_O)

    def normed(x: Any, conv: str, norm: str, stride: int = 1) -> Any:
        weight, bias_O = folded(state, conv, norm)
        return convolved(x, kept.weight(weight), bias_O, stride)

    def block(name: str, x: Any, stride: int) -> Any:
        seen = kept.activation(x)
        y = kept.activation(ops.relu(normed(seen, f"{name}.conv1", f"{name}.bn1")))
        y = kept.activation(ops.relu(normed(y, f"{name}.conv2", f"{name}.bn2", stride)))
        y = normed(y, f"{name}.conv3", f"{name}.bn3")
        has_shortcut = f"{name}.downsample.0.weight" in state
        past = normed(seen, f"{name}.downsample.0", f"{name}.downsample.1", stride) if has_shortcut else x
        return ops.relu(ops.add(y, past))

    given = ops.parameter([-1, 2, -1, -1], np.float32)
    weight, bias_O = folded(state, "pretrained_model.conv1", "pretrained_model.bn1")
    map_NCHW = ops.relu(convolved(given, kept.constant(over_planes(weight)), bias_O, 2))
    map_NCHW = ops.max_pool(map_NCHW, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for name, stride in _blocks():
        map_NCHW = block(name, map_NCHW, stride)
    return openvino.Model([ops.result(kept.result(map_NCHW))], [given], "trunk")


def _blocks() -> Iterator[tuple[str, int]]:
    """Their names and strides."""
    for stage, n_blocks in enumerate(BLOCKS, start=1):
        for number in range(n_blocks):
            yield f"pretrained_model.layer{stage}.{number}", 2 if number == 0 and stage > 1 else 1


def pyramid_model(state: State) -> Any:
    """A feature map [1, F, *MAP] -> the score of each anchor [1, A]."""
    openvino = import_openvino()
    ops = openvino.opset13

    def convolved(name: str, x: Any, stride: int, margin: int) -> Any:
        weight = ops.constant(state[f"proposal_net.{name}.weight"], shared_memory=True)
        bias_O = state[f"proposal_net.{name}.bias"]
        return _with_bias(ops, ops.convolution(x, weight, [stride] * 2, [margin] * 2, [margin] * 2, [1, 1]), bias_O)

    given = ops.parameter([1, -1, -1, -1], np.float32)
    scores = []
    map_NCHW: Any = given
    for level, stride in ((1, 1), (2, 2), (3, 2)):
        map_NCHW = ops.relu(convolved(f"down{level}", map_NCHW, stride, 1))
        scores.append(ops.reshape(convolved(f"tidy{level}", map_NCHW, 1, 0), np.array([1, -1]), special_zero=False))
    return openvino.Model([ops.result(ops.concat(scores, 1))], [given], "proposals")


def _with_bias(ops: Any, map_NCHW: Any, bias_O: Floats) -> Any:
    return ops.add(map_NCHW, ops.constant(bias_O.reshape(1, -1, 1, 1)))
