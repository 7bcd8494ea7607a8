"""The network that judges the rules' lung mask: organs leave, lesions stay, and nothing but the pixels decides."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import SliceConfig
from pipeline.phantom import chest
from pipeline.study.lungs import OUTLINE, judged_masks, lung_masks, seen, shares
from pipeline.study.lungs.air import lung_air
from pipeline.study.lungs.field import WALL_PX, unwalled
from pipeline.study.lungs.network import SIZE, WEIGHTS, LungNet, lung_share, network, seen_by_network
from pipeline.study.lungs.plausible import doubted, signs
from pipeline.study.lungs.shapes import disk
from pipeline.study.lungs.veto import questions, without_organs
from pipeline.study.lungs.wall import closed_lungs
from pipeline.study.slices import choose_slices


def fifteen(seed, label, *, severity=0.7, varied=False):
    """The fifteen slices of a patient: (phantom's parts by name, small HU, bodies, the rules' lungs)."""
    phantom = chest(seed, label, matrix=192, slices=40, severity=severity, varied=varied)
    at = choose_slices(phantom.z_mm, SliceConfig())
    parts = {name: getattr(phantom, name)[at] for name in ("hu", "z_mm", "lung", "lesion", "effusion")}
    small, bodies = seen(parts["hu"], phantom.spacing_mm)
    lungs = closed_lungs(lung_air(small, bodies, parts["z_mm"]), small, bodies, parts["z_mm"])
    return parts | {"spacing_mm": phantom.spacing_mm}, small, bodies, lungs


@pytest.fixture(scope="module")
def healthy():
    return fifteen(4, "healthy")


@pytest.fixture(scope="module")
def sick():
    return fifteen(7, "bacterial")


def as_seen(masks, small):
    """Full masks at the size of the slices that the rules see."""
    size = tuple(n - 2 * WALL_PX for n in small.shape[:0:-1])
    return np.stack([np.pad(cv2.resize(mask.astype(np.uint8), size), WALL_PX) for mask in masks])


def with_organs(small, lungs):
    """(lungs with the soft tissue of the middle of each slice, that tissue alone)."""
    organs = np.zeros_like(lungs)
    middle = small.shape[2] // 2
    for organ, image, lung in zip(organs, small, lungs, strict=True):
        rows = np.flatnonzero(lung.any(axis=1))
        near = (slice(rows[0] + 15, rows[-1] - 15) if len(rows) else slice(0), slice(middle - 20, middle + 20))
        soft = (cv2.blur(image, (5, 5)) > -20) & (image < 200) & (cv2.dilate(lung, disk(2)) == 0)
        organ[near] = cv2.morphologyEx(soft.astype(np.uint8), cv2.MORPH_OPEN, disk(4))[near]
    return lungs | organs, organs


def test_hearts_and_mediastinum_that_a_mask_holds_are_taken_out_and_no_lung_with_them(healthy):
    _, small, bodies, lungs = healthy
    wrong, organs = with_organs(small, lungs)
    assert organs.sum() > 5000
    right = without_organs(wrong, small, shares(wrong, small, bodies))
    assert (right & organs).sum() < 0.1 * organs.sum()
    assert (right & lungs).sum() > 0.998 * lungs.sum()


def test_the_rules_own_organs_leave_and_consolidation_stays(sick):
    given, small, bodies, lungs = sick
    lesion = as_seen(given["lesion"], small)
    assert lesion.sum() > 1500
    right = without_organs(lungs, small, shares(lungs, small, bodies))
    assert (right & lesion).sum() > 0.9 * (lungs & lesion).sum()
    assert not (right & ~lungs & 1).any()


def test_without_a_judge_the_mask_is_that_of_the_rules_and_with_one_it_is_a_part_of_it(sick):
    given, small, bodies, lungs = sick
    asked = given["hu"], given["z_mm"], given["spacing_mm"]
    rules, doubts = judged_masks(*asked, "chest-wall", "none")
    size = given["hu"].shape[:0:-1]
    grown = [cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_LINEAR) > OUTLINE for mask in unwalled(lungs)]
    assert np.array_equal(rules, np.stack(grown))
    assert np.array_equal(doubts, doubted(lungs, small, bodies))
    assert not (lung_masks(*asked) & ~rules).any()


def test_the_published_recipe_asks_no_network(sick, monkeypatch):
    given = sick[0]
    monkeypatch.setattr("pipeline.study.lungs.lung_share", None)
    lung_masks(given["hu"], given["z_mm"], given["spacing_mm"], "published")


def test_threads_other_questions_and_their_order_change_no_bit_of_an_answer(sick):
    _, small, bodies, _ = sick
    whole = lung_share(small, bodies, range(len(small)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = lung_share(small, bodies, range(len(small))[::-1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert whole.tobytes() == again.tobytes()
    one = lung_share(small, bodies, [6])
    assert one[6].tobytes() == whole[6].tobytes()
    assert (np.delete(one, 6, axis=0) == 1).all()


def test_the_answer_for_inference_is_what_the_plain_network_says(sick):
    """Norms folded, weights packed, planes split once a slice: all of it moves the last bits at most."""
    hu = np.stack([cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) for image in sick[1]])
    plain = LungNet().eval()
    plain.load_state_dict(load_file(WEIGHTS))
    share = lung_share(hu, np.ones(hu.shape, np.uint8), [0, 6])
    for place, near in ((0, [0, 0, 1]), (6, [6, 5, 7])):
        planes = torch.from_numpy(seen_by_network(hu[near].astype(np.float32))[None])
        with torch.inference_mode():
            wanted = plain(planes).softmax(dim=1)[0, 1:].sum(dim=0).numpy()
        np.testing.assert_allclose(share[place], wanted, atol=1e-4)
    assert share[6].max() > 0.9


def test_where_torch_cannot_pack_weights_the_answer_differs_in_the_last_bits_only(sick, monkeypatch):
    _, small, bodies, _ = sick
    packed = lung_share(small, bodies, [6])
    monkeypatch.setattr("torch._C._has_mkldnn", False)
    network.cache_clear()
    plain = lung_share(small, bodies, [6])
    network.cache_clear()
    np.testing.assert_allclose(plain, packed, atol=1e-4)


def test_slices_without_a_thick_piece_of_soft_tissue_are_not_asked_about(healthy):
    _, small, _, lungs = healthy
    wrong, organs = with_organs(small, lungs)
    airy = np.asarray(lungs * (small < -500), np.uint8)
    assert questions(airy, small) == []
    assert set(np.flatnonzero(organs.any(axis=(1, 2)))) <= set(questions(wrong, small))


def test_a_wide_and_a_small_picture_are_answered_alike_where_both_show_the_chest(sick):
    _, small, bodies, _ = sick
    narrow = lung_share(small, bodies, [6])[6]
    wide = lung_share(
        *(np.pad(part, ((0, 0), (30, 30), (30, 30)), constant_values=value) for part, value in ((small, -1024), (bodies, 0))),
        [6],
    )
    assert np.array_equal(wide[6, 30:-30, 30:-30] > 0.5, narrow > 0.5)
    assert lung_share(small[:, :60, :60], bodies[:, :60, :60] * 0, [6]).shape == (len(small), 60, 60)


def test_soft_tissue_no_denser_than_lesion_that_the_network_denies_makes_a_slice_implausible():
    body = np.ones((100, 120), np.uint8)
    lung, organ = np.zeros_like(body), np.zeros_like(body)
    lung[20:80, 20:50] = lung[20:80, 70:100] = 1
    organ[40:60, 50:70] = 1
    hu = np.where(lung > 0, -850, 25).astype(np.int16)
    assert signs(lung | organ, hu, body) == (False, False, False)
    assert signs(lung | organ, hu, body, np.full(body.shape, 0.9, np.float32)) == (False, False, False)
    denied = np.where(organ > 0, 0.2, 0.9).astype(np.float32)
    assert signs(lung | organ, hu, body, denied) == (True, False, False)


def test_the_shipped_weights_are_small_and_all_fp32():
    assert WEIGHTS.stat().st_size < 2_000_000
    assert {tensor.dtype for tensor in network().state_dict().values()} == {torch.float32}
    planes = torch.zeros(2, 6, *SIZE)
    assert LungNet().eval()(planes).shape == (2, 3, *SIZE)
