"""The pass that a GPU records, on the processor in its stead: the numbers of the engine, one shape, the host not asked."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.records import Box, PreparedStudy
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.network import cut_boxes
from pipeline.study.engine import Engine, graph
from pipeline.study.engine.fast import fast_network
from pipeline.study.engine.graph import SLOTS, FixedPass, cut_by_index
from pipeline.study.engine.one_pass import OnePass
from pipeline.study.engine.shown import ANCHORS_A4, lung_integral, lung_shares

CPU = torch.device("cpu")
WIDTH = 1 / 16


@pytest.fixture(scope="module")
def networks():
    return [formula_network(WIDTH), formula_network(WIDTH, 3)]


@pytest.fixture
def slots(monkeypatch):
    """A batch of few slices: on a processor it is slow."""
    monkeypatch.setattr(graph, "SLOTS", 4)
    return 4


def _study(n_slices):
    draw = np.random.default_rng(n_slices)
    lung = np.zeros((n_slices, 448, 448), bool)
    lung[:, 100:300, 100:300] = True
    images, zoom = (draw.integers(0, 256, (n_slices, size, size), np.uint8) for size in (448, 600))
    number = np.arange(n_slices)
    return PreparedStudy(images, zoom, lung, number.astype(np.int32), number * 5.0, (Box(0, 0, 1, 1),) * n_slices, number + 1.0)


def _fast(networks):
    return [fast_network(network, EngineConfig(name="torch"), CPU) for network in networks]


def test_details_cut_by_index_are_those_cut_box_by_box():
    images = torch.rand(3, 2, 600, 600, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[[0, 0, 48, 48], [504, 504, 600, 600], [0, 123, 257, 331], [7, 599, 8, 600]]] * 3)
    for size in (224, 448):
        torch.testing.assert_close(cut_by_index(images, boxes, size), cut_boxes(images, boxes, size), atol=5e-7, rtol=0)


def test_shares_of_lung_are_those_of_the_host_to_the_bit():
    lung = torch.rand(2, 448, 448, generator=torch.Generator().manual_seed(2)) > 0.5
    want = [lung_shares(lung_integral(one), ANCHORS_A4) for one in lung.numpy()]
    assert (OnePass([], CPU).lung_shares(lung).numpy() == np.stack(want)).all()


@pytest.mark.parametrize("n_slices", [1, 4, 6])
def test_a_study_in_a_batch_that_never_varies_is_that_of_the_engine(n_slices, networks, slots, monkeypatch):
    engine = Engine(networks, EngineConfig(name="torch"))
    want = engine.predict(_study(n_slices))
    without = engine.without_each()
    monkeypatch.setattr(engine, "_pass", FixedPass(_fast(networks), CPU))
    monkeypatch.setattr(engine, "_at_once", slots)
    got = engine.predict(_study(n_slices))
    for one, other in zip(want, got, strict=True):
        for alone, together in zip(one, other, strict=True):
            assert together.probability == pytest.approx(alone.probability, abs=1e-5)
            assert [detail.box for detail in together.details] == [detail.box for detail in alone.details]
            assert [d.lung_fraction for d in together.details] == [d.lung_fraction for d in alone.details]
    np.testing.assert_allclose(engine.without_each(), without, atol=1e-5)


def test_a_device_on_which_neighbours_move_a_slices_numbers_is_refused(networks, slots):
    class Moved(FixedPass):
        def _repeat(self):
            seen = super()._repeat()
            return seen._replace(rows=seen.rows + 1e-9 * self._given[0].double().mean())

    with pytest.raises(DeviceError, match="choose cuda"):
        Moved(_fast(networks[:1]), CPU)


def test_a_device_on_which_the_slot_moves_a_slices_numbers_is_refused(networks, slots):
    class Moved(FixedPass):
        def _repeat(self):
            seen = super()._repeat()
            return seen._replace(rows=seen.rows + 1e-9 * torch.arange(len(seen.rows)).view(-1, 1, 1))

    with pytest.raises(DeviceError, match="choose cuda"):
        Moved(_fast(networks[:1]), CPU)


@pytest.mark.parametrize(("by_index", "asks"), [(True, False), (False, True)])
def test_the_recorded_pass_asks_the_host_nothing_on_the_way(by_index, asks, networks):
    (network,) = _fast(networks[:1])
    network.cut = cut_by_index if by_index else cut_boxes
    one_pass = OnePass([network], CPU)
    given = [torch.from_numpy(array) for array in (_study(2).images, _study(2).zoom, _study(2).lung)]
    asked = False
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        try:
            one_pass(*map(fake.from_tensor, given))
        except (DataDependentOutputException, DynamicOutputShapeException):
            asked = True
    assert asked == asks


def test_it_needs_a_gpu_and_says_so(networks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"cudagraph.*--gpus-per-task"):
        Engine(networks, EngineConfig(name="cudagraph"))


def test_a_usual_study_fits_into_one_batch():
    assert SLOTS >= 15
