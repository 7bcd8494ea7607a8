"""One pass of one shape, recorded once on a GPU as a graph and repeated: no kernel waits for the host.

SLOTS slices are always computed; those that a study does not fill are blank. A study's numbers must not depend on where in the
batch its slices lie or on what lies beside them, which no library promises: it is proven on the device before anything is
screened, and a device on which it does not hold is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import DeviceError
from pipeline.study.anchors import IMAGE_PX, ZOOM_PX
from pipeline.study.drenet import DreNet
from pipeline.study.engine.one_pass import OnePass, PassOutput

SLOTS = 16
"""A study keeps 15 slices at most by default; more take a second turn."""
WARM_UP = 3
"""Passes before the recording, in which libraries choose their kernels and take their memory."""


class FixedPass:
    """One pass over SLOTS slices at a time; the `networks` are made to cut details without the host.

    Raises DeviceError where a slice's numbers depend on its slot or its neighbours.
    """

    def __init__(self, networks: Sequence[DreNet], device: torch.device, slots: int = SLOTS) -> None:
        self.slots = slots
        for network in networks:
            network.cut = cut_by_index
        self._one_pass = OnePass(networks, device)
        self._given = tuple(
            torch.zeros((slots, size, size), dtype=dtype, device=device)
            for size, dtype in ((IMAGE_PX, torch.uint8), (ZOOM_PX, torch.uint8), (IMAGE_PX, torch.bool))
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._record(device)
        self._prove()

    def put(self, slot: int, image_HW: Tensor, zoom_HW: Tensor, lung_HW: Tensor) -> None:
        """Lay a slice into `slot`."""
        for slots, given in zip(self._given, (image_HW, zoom_HW, lung_HW), strict=True):
            slots[slot].copy_(given, non_blocking=True)

    def run(self, n_slices: int) -> PassOutput:
        """What is said of the first `n_slices` slots; the others are blank. The next run writes over it."""
        for slots in self._given:
            slots[n_slices:].zero_()
        seen = self._repeat()
        return PassOutput(seen.rows[:n_slices], [looks[:n_slices] for looks in seen.looks])

    def _repeat(self) -> PassOutput:
        if self._graph is None:
            return self._one_pass(*self._given)
        self._graph.replay()
        return self._seen

    def _record(self, device: torch.device) -> None:
        beside: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._one_pass(*self._given)
        torch.cuda.current_stream(device).wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._seen = self._one_pass(*self._given)

    def _prove(self) -> None:
        """Slices of noise, in order, moved on by a few slots, and alone: each gives the same bits."""
        slices = _noise(self.slots)
        whole = self._rows(*slices)
        moved = self._rows(*(one.roll(self.slots // 3, dims=0) for one in slices)).roll(-(self.slots // 3), dims=0)
        few = (0, self.slots // 2, self.slots - 1)
        alone = [self._rows(*(one[number : number + 1] for one in slices)) for number in few]
        if not torch.equal(whole, moved) or not torch.equal(torch.cat(alone), whole[list(few)]):
            raise DeviceError(
                "engine = cudagraph, but on this GPU a slice's numbers depend on what is computed beside it: choose cuda"
            )

    def _rows(self, image_NHW: Tensor, zoom_NHW: Tensor, lung_NHW: Tensor) -> Tensor:
        for slot, slice_ in enumerate(zip(image_NHW, zoom_NHW, lung_NHW, strict=True)):
            self.put(slot, *slice_)
        return self.run(len(image_NHW)).rows.clone()


def cut_by_index(image_NCHW: Tensor, boxes_NK4: Tensor, size: int) -> Tensor:
    """Boxes of any size as `cut_boxes` gives them [N * K, C, size, size], the host not being asked where they lie."""
    top_NK, left_NK, bottom_NK, right_NK = boxes_NK4.unbind(dim=2)
    y0, y1, down = _between(top_NK, bottom_NK, size)
    x0, x1, across = _between(left_NK, right_NK, size)
    number = torch.arange(len(image_NCHW), device=image_NCHW.device).view(-1, 1, 1, 1)
    image_NHWC = image_NCHW.permute(0, 2, 3, 1)

    def row(y_NKS: Tensor) -> Tensor:
        left, right = (image_NHWC[number, y_NKS.unsqueeze(3), x_NKS.unsqueeze(2)] for x_NKS in (x0, x1))
        share = across.view(*across.shape[:2], 1, size, 1)
        return (1 - share) * left + share * right

    share = down.view(*down.shape[:2], size, 1, 1)
    return ((1 - share) * row(y0) + share * row(y1)).flatten(0, 1).permute(0, 3, 1, 2)


def _between(first_NK: Tensor, end_NK: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For `size` points from the first pixel to the last: the one before, the one after [N, K, S], the share of the latter."""
    last_NK1 = (end_NK - first_NK - 1).unsqueeze(2)
    at_NKS = torch.arange(size, device=first_NK.device) * (last_NK1.float() / (size - 1))
    before_NKS = torch.minimum(at_NKS.long(), last_NK1)
    after_NKS = torch.minimum(before_NKS + 1, last_NK1)
    return before_NKS + first_NK.unsqueeze(2), after_NKS + first_NK.unsqueeze(2), at_NKS - before_NKS


def _noise(slots: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    image, zoom = (
        torch.randint(0, 256, (slots, size, size), dtype=torch.uint8, generator=draw) for size in (IMAGE_PX, ZOOM_PX)
    )
    return image, zoom, image > 60
