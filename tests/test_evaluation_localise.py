"""Details against lesions: what counts as a hit, what chance would hit, and how boxes overlap."""

import numpy as np
import pytest
import torch

from pipeline.cohort.cache import CachedSlice, CachedStudy
from pipeline.evaluation.localise import (
    Seen,
    Tally,
    best_overlap,
    chance_of,
    details,
    in_picture,
    judged,
    ratio_with_interval,
    tally,
)
from pipeline.records import Box
from pipeline.study.drenet import DreNetOutput, formula_network

EMPTY = np.zeros((448, 448), bool)


def half(left):
    mask = EMPTY.copy()
    mask[:, :224] = left
    mask[:, 224:] = not left
    return mask


def test_chance_is_the_share_of_lung_anchors_whose_centre_is_in_a_lesion():
    lung, quarter = half(left=True), EMPTY.copy()
    quarter[:224, :224] = True
    assert chance_of(48, lung, quarter) == pytest.approx(0.5)
    assert chance_of(192, lung, half(left=False)) == 0.0


def test_a_box_overlaps_the_lesion_it_fits_best():
    truth = EMPTY.copy()
    truth[100:148, 100:148] = True
    truth[300:310, 300:310] = True
    assert best_overlap([100, 100, 148, 148], truth) == 1.0
    assert best_overlap([100, 124, 148, 172], truth) == pytest.approx(1 / 3)
    assert best_overlap([0, 0, 48, 48], truth) == 0.0


@pytest.fixture
def ct_slice():
    """Lung on the left, fill on the right."""
    return CachedSlice(np.zeros((448, 448), np.uint8), np.zeros((600, 600), np.uint8), half(left=True))


@pytest.fixture
def network():
    """A network that says the same of every slice: three sure details in the fill, three others in the lung."""
    boxes = torch.tensor([[[40, 300, 88, 348]] * 3 + [[40, 40, 88, 88], [80, 80, 128, 128], [140, 90, 188, 138]]])
    part = torch.zeros(1, 6, 2)
    part[0, :, 1] = torch.tensor([9.0, 9.0, 9.0, 1.0, 3.0, 2.0])
    proposal = torch.tensor([[1.0, 6.0, 5.0, 4.0, 2.0, 3.0]])
    nothing = torch.zeros(1, 2)
    output = DreNetOutput(nothing, nothing, part, torch.zeros(1, 6), proposal, boxes, torch.zeros(1, 6), nothing)
    network = formula_network(1 / 16)
    network.forward = lambda *_, **__: output
    return network


def test_details_have_both_scores_and_those_that_show_mostly_fill_are_told(network, ct_slice):
    seen = details(network, ct_slice)
    assert [one.in_lung for one in seen] == [False] * 3 + [True] * 3
    assert [one.box for one in seen[3:]] == [[40, 40, 88, 88], [80, 80, 128, 128], [140, 90, 188, 138]]
    assert [one.proposal for one in seen] == [1.0, 6.0, 5.0, 4.0, 2.0, 3.0]
    assert sorted(seen, key=lambda one: one.positive) == [seen[place] for place in (3, 5, 4, 0, 1, 2)]


def test_findings_are_ranked_for_the_positive_class_and_top_details_by_the_pyramid(network, monkeypatch):
    whole = CachedSlice(np.zeros((448, 448), np.uint8), np.zeros((600, 600), np.uint8), ~EMPTY)
    monkeypatch.setattr("pipeline.evaluation.localise.read_slice", lambda *_: whole)
    truth = EMPTY.copy()
    truth[50:80, 50:80] = True  # the centre of the first in the lung: last by its class, third by the pyramid
    study = CachedStudy("", (0,), (Box(0, 0, 448, 448),))
    assert [counted.hits for counted in tally(network, None, study, truth[None])] == [0, 0]
    truth[50:80, 310:340] = True  # that of the three on the right
    assert [counted.hits for counted in tally(network, None, study, truth[None])] == [2, 2]


def test_what_lies_in_the_fill_is_no_finding_and_as_a_top_detail_a_miss(network, ct_slice, monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.localise.read_slice", lambda *_: ct_slice)
    truth = EMPTY.copy()
    truth[80:128, 80:128] = True
    truth[40:88, 300:348] = True  # a lesion that would be hit, were it not in the fill
    study = CachedStudy("", (0,), (Box(0, 0, 448, 448),))
    findings, top = tally(network, None, study, truth[None])
    assert (findings.n, findings.hits, findings.overlap) == (2, 1, pytest.approx(1.0))
    assert (top.n, top.hits, top.overlap) == (2, 0, 0.0)
    assert findings.chance == top.chance == pytest.approx(2 * chance_of(48, ct_slice.lung, truth))
    there = Seen([40, 300, 88, 348], in_lung=True, positive=1.0, proposal=1.0)
    assert judged(there, ct_slice.lung, truth)[0]  # the centre does lie in it


def test_a_lesion_lies_in_the_picture_where_the_crop_shows_it():
    mask = np.zeros((100, 100), bool)
    mask[20:40, 60:80] = True
    seen = in_picture(mask, Box(20, 40, 60, 80))
    assert seen[:224, 224:].all()
    assert seen.mean() == pytest.approx(0.25)


def test_the_interval_of_hits_over_chance_resamples_patients():
    same = [Tally(10, 4, 2.0, 1.0)] * 8
    assert ratio_with_interval(same) == pytest.approx((2.0, 2.0, 2.0))
    ratio, low, high = ratio_with_interval([Tally(10, hits, 2.0, 0.0) for hits in (0, 8, 1, 7, 4, 4)])
    assert ratio == pytest.approx(2.0)
    assert low < ratio < high
