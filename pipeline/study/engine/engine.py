"""One rank's engine: prepared slices -> what every network says of them.

On processors a slice is its own batch (1 x 448, 6 x 224, 1 x 448): no neighbour can move a bit. On a GPU a study's slices are
one batch, which fills it; what goes together is the study's alone, so that no other study and no number of ranks can either.
In bf16 only the trunk is; the proposal pyramid, the choice of details and the final linear layers stay fp32. In mixed the first
look is fp32 too, so that no box moves: bf16 are the looks at the details and the second look, five sevenths of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.config import EngineConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import Box, Detail, PreparedStudy, SlicePrediction
from pipeline.study.drenet import DreNet, DreNetOutput
from pipeline.study.drenet.network import N_DETAILS
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import fast_network, planes
from pipeline.study.engine.shown import Integral, anchors_in_lung, lung_integral, lung_shares


class Engine:
    """One replica of every network, on one device."""

    def __init__(self, networks: Sequence[DreNet], config: EngineConfig, *, local_rank: int = 0) -> None:
        self._device = open_device(config, local_rank)
        self._networks = [fast_network(network, config, self._device) for network in networks]
        self._positive = [network.metadata.positive for network in networks]
        self._looks = [_Looks(network) for network in self._networks]

    def predict(
        self, prepared: PreparedStudy, tick: Callable[[], None] = lambda: None
    ) -> tuple[tuple[SlicePrediction, ...], ...]:
        """[slice][network]; `tick` is called between batches. Raises StudyError NONFINITE_OUTPUT."""
        for looks in self._looks:
            looks.met.clear()
        images = self._on_device(prepared.images)
        zooms = self._on_device(prepared.zoom)
        covered = [lung_integral(lung) for lung in prepared.lung]
        at_once = len(covered) if self._device.type == "cuda" else 1
        rows: list[tuple[SlicePrediction, ...]] = []
        for start in range(0, len(covered), at_once):
            batch = slice(start, start + at_once)
            rows += self._predict_batch(images[batch], zooms[batch], covered[batch])
            tick()
        return tuple(rows)

    def without_each(self) -> list[list[list[float]]]:
        """[slice][network][look]: the probability of each slice predicted last with one look's features left out.

        The looks are the six details, the slice and the second look, in the order of the last layer's features; all else stays
        as it was. No network is computed again.
        """
        of = [looks.without_each(positive) for looks, positive in zip(self._looks, self._positive, strict=True)]
        return [list(rows) for rows in zip(*of, strict=True)]

    def _on_device(self, grey_SHW: npt.NDArray[np.uint8]) -> Tensor:
        """A study's slices as they are, a byte a pixel: the device makes planes of them."""
        grey = torch.from_numpy(grey_SHW)
        return grey.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else grey

    @torch.inference_mode()
    def _predict_batch(
        self, image: Tensor, zoom: Tensor, covered: Sequence[Integral]
    ) -> list[tuple[SlicePrediction, ...]]:  # fmt: skip
        in_lung = torch.from_numpy(np.stack([anchors_in_lung(one) for one in covered])).to(self._device)
        found = []
        for network, positive in zip(self._networks, self._positive, strict=True):
            output = DreNetOutput(*(part.cpu() for part in network(planes(image), planes(zoom), in_lung=in_lung)))
            found.append([_prediction(output, row, positive, one) for row, one in enumerate(covered)])
        return list(zip(*found, strict=True))


class _Looks:
    """What a network's last layer took in since it was cleared: the features of all looks, side by side."""

    def __init__(self, network: DreNet) -> None:
        self.met: list[Tensor] = []
        self._last = network.concat_net
        self._last.register_forward_hook(lambda _module, given, _output: self.met.append(given[0]))

    @torch.inference_mode()
    def without_each(self, positive: int) -> list[list[float]]:
        """[slice][look]: the probability with the features of one look at 0."""
        rows: list[list[float]] = []
        for features_NF in self.met:
            looks_NLF = features_NF.reshape(len(features_NF), N_DETAILS + 2, -1)
            weights_CLF = self._last.weight.reshape(self._last.out_features, N_DETAILS + 2, -1)
            share_NLC = torch.einsum("nlf,clf->nlc", looks_NLF, weights_CLF)
            without_NLC = linear(features_NF, self._last.weight, self._last.bias).unsqueeze(1) - share_NLC
            rows += torch.softmax(without_NLC, dim=2)[:, :, positive].cpu().tolist()
        return rows


def _prediction(output: DreNetOutput, row: int, positive: int, covered: Integral) -> SlicePrediction:
    """One slice's output as a record."""
    probability = float(torch.softmax(output.concat_logits[row], dim=0)[positive])
    parts = torch.softmax(output.part_logits[row], dim=1)[:, positive].tolist()
    scores = output.detail_score[row].tolist()
    weights = output.attention[row].tolist()
    if not np.isfinite([probability, *parts, *scores]).all():
        raise StudyError(Reason.NONFINITE_OUTPUT, "infer")
    edges_K4 = output.boxes[row].numpy()
    boxes = [Box(*box) for box in edges_K4.astype(float).tolist()]
    shares = lung_shares(covered, edges_K4).tolist()
    return SlicePrediction(
        probability,
        tuple(
            Detail(box, box, score, weight, part, share)
            for box, score, weight, part, share in zip(boxes, scores, weights, parts, shares, strict=True)
        ),
    )
