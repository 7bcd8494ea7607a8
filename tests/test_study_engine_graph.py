"""The pass that a GPU records, on the processor in its stead: the numbers of the engine, one shape, the host not asked."""

import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from pipeline.config import EngineConfig, SliceConfig
from pipeline.errors import DeviceError
from pipeline.study.drenet import formula_network
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.drenet.network import cut_boxes
from pipeline.study.engine import Engine, engine, graph
from pipeline.study.engine import owned as owned_pass
from pipeline.study.engine.fast import fast_network
from pipeline.study.engine.graph import FixedPass, cut_by_index
from pipeline.study.engine.one_pass import OnePass
from pipeline.study.engine.owned import OwnedPass
from pipeline.study.engine.shown import ANCHORS_A4, lung_integral, lung_shares
from tests.programs.ask_owner import SLOTS, asking_engine, study
from tests.tools import environment, program

CPU = torch.device("cpu")
WIDTH = 1 / 16


@pytest.fixture(scope="module")
def networks():
    return [formula_network(WIDTH), formula_network(WIDTH, 3)]


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


@pytest.fixture
def owned(networks, monkeypatch):
    """Makes engines that ask an owner; on the processor, in a GPU's stead."""
    monkeypatch.setattr(engine, "opened", engine.opened)  # what a program sets is put back
    made = []

    def make():
        made.append(asking_engine(networks[:1]))
        return made[-1]

    yield make
    for one in made:
        one._pass.close()
    for owner in owned_pass._started:
        owner.wait(timeout=60)
    owned_pass._started.clear()


def _owner_of(one):
    return struct.unpack("3i", one._pass._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def _ended(pid):
    """Whether the process is gone, or only waits to be reaped, within a generous time."""
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_study_computed_by_the_owner_is_that_of_the_engine(networks, owned):
    alone = Engine([kept_of(networks[0])], EngineConfig(name="torch"))
    asking = owned()
    assert asking._at_once == SLOTS
    for n_slices in (1, 6):
        want, got = (one.predict(study(n_slices)) for one in (alone, asking))
        for (one,), (other,) in zip(want, got, strict=True):
            assert other.probability == pytest.approx(one.probability, abs=1e-5)
            assert [detail.box for detail in other.details] == [detail.box for detail in one.details]
            assert [detail.lung_fraction for detail in other.details] == [detail.lung_fraction for detail in one.details]
        np.testing.assert_allclose(asking.without_each(), alone.without_each(), atol=1e-5)


@pytest.mark.long
def test_ranks_that_share_an_owner_get_the_bits_that_each_would_get_alone():
    sizes = ("3", "5", "1", "6")

    def digests(n_ranks):
        ranks = [
            subprocess.Popen([*program("ask_owner"), *sizes], env=environment(), stdout=subprocess.PIPE, text=True)
            for _ in range(n_ranks)
        ]
        return {rank.communicate(timeout=300)[0] for rank in ranks}

    (alone,) = digests(1)
    assert len(alone.strip()) == 64
    assert digests(3) == {alone}


@pytest.mark.long
def test_an_owner_outlives_a_rank_that_is_killed_and_ends_with_the_last(owned):
    two = study(2)
    asking = owned()
    want = asking.predict(two)
    other = owned()
    other._pass._socket.sendall(b"\x02\0\0\0")  # asks, and is gone before it is answered
    other._pass.close()
    assert asking.predict(two) == want
    pid = _owner_of(asking)
    asking._pass.close()
    assert _ended(pid)


@pytest.mark.long
def test_a_rank_whose_owner_is_killed_says_so_and_the_next_start_has_a_new_one(owned):
    asking = owned()
    want = asking.predict(study(1))
    os.kill(_owner_of(asking), signal.SIGKILL)
    with pytest.raises(DeviceError, match="owns this GPU has ended"):
        asking.predict(study(1))
    assert owned().predict(study(1)) == want


@pytest.mark.long
@pytest.mark.usefixtures("owned")
def test_an_owner_that_cannot_serve_tells_why_to_who_waits(networks, monkeypatch):
    monkeypatch.setattr(owned_pass, "open_device", lambda *_: CPU)
    with pytest.raises(DeviceError, match=r"cudagraph.*--gpus-per-task"):
        OwnedPass([kept_of(network) for network in networks], EngineConfig(name="cudagraph"), 0)


def test_a_device_on_which_neighbours_move_a_slices_numbers_is_refused(networks):
    class Moved(FixedPass):
        def _repeat(self):
            seen = super()._repeat()
            return seen._replace(rows=seen.rows + 1e-9 * self._given[0].double().mean())

    with pytest.raises(DeviceError, match="choose cuda"):
        Moved(_fast(networks[:1]), CPU, SLOTS)


def test_a_device_on_which_the_slot_moves_a_slices_numbers_is_refused(networks):
    class Moved(FixedPass):
        def _repeat(self):
            seen = super()._repeat()
            return seen._replace(rows=seen.rows + 1e-9 * torch.arange(len(seen.rows)).view(-1, 1, 1))

    with pytest.raises(DeviceError, match="choose cuda"):
        Moved(_fast(networks[:1]), CPU, SLOTS)


@pytest.mark.parametrize(("by_index", "asks"), [(True, False), (False, True)])
def test_the_recorded_pass_asks_the_host_nothing_on_the_way(by_index, asks, networks):
    (network,) = _fast(networks[:1])
    network.cut = cut_by_index if by_index else cut_boxes
    one_pass = OnePass([network], CPU)
    given = [torch.from_numpy(array) for array in (study(2).images, study(2).zoom, study(2).lung)]
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
        Engine([kept_of(network) for network in networks], EngineConfig(name="cudagraph"))


def test_a_usual_study_fits_into_one_batch():
    assert SliceConfig().count <= graph.SLOTS
