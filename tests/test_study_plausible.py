"""Implausible lung masks are told from sound ones, left out, and refused where they are most of a study."""

import numpy as np
import pytest

from pipeline.config import Config, SliceConfig
from pipeline.errors import Reason, StudyError
from pipeline.phantom import chest
from pipeline.records import Volume
from pipeline.study.lungs import judged_masks, lung_masks, seen
from pipeline.study.lungs.plausible import doubted, signs
from pipeline.study.slices import believed_slices, choose_slices, prepare


@pytest.fixture(scope="module")
def sick():
    """(volume, small masks, small HU, bodies) of the fifteen slices of a patient with consolidated lobes."""
    phantom = chest(7, "bacterial", matrix=256, slices=40, severity=0.8)
    at = choose_slices(phantom.z_mm, SliceConfig())
    hu, z_mm, spacing_mm = phantom.hu[at], phantom.z_mm[at], phantom.spacing_mm
    volume = Volume(hu, np.asarray(z_mm, float), np.asarray(at, np.int32), spacing_mm, n_series=40)
    small, bodies = seen(hu, spacing_mm)
    aerated = ((small < -400) & (small > -960) & (bodies > 0)).astype(np.uint8)
    return volume, aerated, small, bodies


def slab(shape, rows, columns):
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def drawn(lung_hu=-850, organ_hu=45):
    """A body of 200 x 150 pixels with two lungs and a heart between them: (lung mask, heart, HU, body)."""
    body = slab((200, 240), slice(25, 175), slice(20, 220))
    lung = slab(body.shape, slice(50, 150), slice(40, 100)) | slab(body.shape, slice(50, 150), slice(140, 200))
    heart = slab(body.shape, slice(60, 110), slice(100, 140))
    hu = np.where(body > 0, 40, -1000)
    hu[lung > 0], hu[heart > 0] = lung_hu, organ_hu
    return lung, heart, hu.astype(np.int16), body


def test_a_whole_mask_has_no_sign():
    lung, _, hu, body = drawn()
    assert signs(lung, hu, body) == (False, False, False)


def test_a_heart_in_the_mask_is_the_sign_of_an_organ():
    lung, heart, hu, body = drawn()
    assert signs(lung | heart, hu, body) == (True, False, False)


def test_a_lobe_that_consolidation_fills_is_no_organ():
    lung, lobe, hu, body = drawn(organ_hu=25)
    assert signs(lung | lobe, hu, body) == (False, False, False)


def test_the_gap_to_the_couch_is_outside_the_body():
    lung, _, hu, body = drawn()
    gap = slab(body.shape, slice(175, 180), slice(80, 160))
    assert signs(lung | gap, hu, body) == (False, True, False)


def test_a_lobe_that_the_mask_leaves_out_is_lost():
    lung, _, hu, body = drawn()
    lung[100:, :120] = 0
    assert signs(lung, hu, body) == (False, False, True)


@pytest.mark.parametrize(("share", "lost"), [(0.9, True), (0.2, True), (0.01, False), (0.0, True)])
def test_air_that_the_network_is_sure_is_no_lung_is_not_lost(share, lost):
    """As that beside a patient who is cut by the picture's edge, behind the wall that is drawn there; 0 is beyond its view."""
    lung, _, hu, body = drawn()
    known = np.where(lung > 0, 0.95, 0).astype(np.float32)
    lung[100:, :120] = 0
    known[100:, :120] = share
    assert signs(lung, hu, body, known) == (False, False, lost)


def test_windpipe_and_bowel_gas_are_not_lost_lung():
    lung, _, hu, body = drawn()
    hu[110:140, 105:135] = -1000
    assert signs(lung, hu, body) == (False, False, False)


def test_a_slice_without_lung_is_not_doubted():
    lung, _, hu, body = drawn()
    assert signs(np.zeros_like(lung), hu, body) == (False, False, False)


def test_masks_are_the_same_whether_they_are_judged_or_not(sick):
    volume = sick[0]
    masks, doubts = judged_masks(volume.hu, volume.z_mm, volume.spacing_mm)
    assert np.array_equal(masks, lung_masks(volume.hu, volume.z_mm, volume.spacing_mm))
    assert doubts.shape == (len(masks),)


def test_the_published_recipe_is_not_judged(sick):
    volume = sick[0]
    assert not judged_masks(volume.hu, volume.z_mm, volume.spacing_mm, "published")[1].any()


def test_the_loss_of_one_lung_is_seen_on_nearly_all_slices_that_show_much_of_it(sick):
    _, aerated, small, bodies = sick
    halved = aerated.copy()
    halved[:, :, : halved.shape[2] // 2] = 0
    lost_px = aerated.sum(axis=(1, 2)) - halved.sum(axis=(1, 2))
    large = (lost_px > 1000) & (halved.sum(axis=(1, 2)) > 500)
    assert large.sum() >= 4
    assert doubted(halved, small, bodies)[large].mean() > 0.9


def test_a_doubted_slice_is_left_out_and_counted(sick):
    volume = sick[0]
    masks, _ = judged_masks(volume.hu, volume.z_mm, volume.spacing_mm)
    sound = prepare(volume, masks, 1, Config())
    doubts = np.isin(volume.slice_index, sound.slice_index[2:4])
    study = prepare(volume, masks, 1, Config(), doubts)
    assert not set(study.slice_index) & set(volume.slice_index[doubts])
    assert [event.count for event in study.events if event.code == Reason.LUNG_IMPLAUSIBLE] == [2]
    assert Reason.LUNG_IMPLAUSIBLE not in [event.code for event in sound.events]


def test_an_inflated_slice_does_not_throw_out_sound_ones():
    area_mm2 = np.array([6000.0, 10000.0, 11000.0, 10000.0, 40000.0])
    assert believed_slices(area_mm2, np.zeros(5, bool), SliceConfig()) == ([4], 0)
    assert believed_slices(area_mm2, np.array([0, 0, 0, 0, 0], bool), SliceConfig(keep_fraction=0.2)) == ([1, 2, 3, 4], 0)
    doubts = np.array([0, 0, 0, 0, 1], bool)
    assert believed_slices(area_mm2, doubts, SliceConfig(keep_fraction=0.2)) == ([0, 1, 2, 3], 1)


def test_a_study_of_mostly_implausible_masks_is_refused():
    area_mm2 = np.full(6, 20000.0)
    with pytest.raises(StudyError) as refused:
        believed_slices(area_mm2, np.array([1, 1, 1, 1, 0, 0], bool), SliceConfig())
    assert refused.value.reason == Reason.LUNG_IMPLAUSIBLE
    assert believed_slices(area_mm2, np.array([1, 1, 1, 0, 0, 0], bool), SliceConfig()) == ([3, 4, 5], 3)
