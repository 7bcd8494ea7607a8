"""The network that judges the rules' lung mask: organs leave, lesions stay, and nothing but the pixels decides."""

import subprocess

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.lung_net import LungNet, seen_by_network
from pipeline.config import SliceConfig
from pipeline.phantom import chest
from pipeline.study.compiled import Compiled
from pipeline.study.lungs import APART_MM, OUTLINE, judged_masks, lung_masks, seen, shares
from pipeline.study.lungs.air import lung_air
from pipeline.study.lungs.field import WALL_PX, unwalled
from pipeline.study.lungs.network import SIZE, WEIGHTS, _graph, lung_share, network
from pipeline.study.lungs.plausible import doubted, signs
from pipeline.study.lungs.rescue import restored
from pipeline.study.lungs.shapes import disk
from pipeline.study.lungs.veto import without_organs
from pipeline.study.lungs.wall import closed_lungs
from pipeline.study.slices import choose_slices
from tests.tools import environment, program


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
    given, small, bodies, lungs = healthy
    wrong, organs = with_organs(small, lungs)
    assert organs.sum() > 5000
    right = without_organs(wrong, small, shares(wrong, small, bodies))
    assert (right & organs).sum() < 0.1 * organs.sum()
    true = lungs & as_seen(given["lung"], small)
    assert (right & true).sum() > 0.999 * true.sum()


def test_the_rules_own_organs_leave_and_consolidation_stays(sick):
    given, small, bodies, lungs = sick
    lesion = as_seen(given["lesion"], small)
    assert lesion.sum() > 1500
    right = without_organs(lungs, small, shares(lungs, small, bodies))
    assert (right & lesion).sum() > 0.9 * (lungs & lesion).sum()
    assert not (right & ~lungs & 1).any()


def test_without_a_judge_the_mask_is_that_of_the_rules(sick):
    given, small, bodies, lungs = sick
    asked = given["hu"], given["z_mm"], given["spacing_mm"]
    rules, doubts = judged_masks(*asked, "chest-wall", "none")
    size = given["hu"].shape[:0:-1]
    grown = [cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_LINEAR) > OUTLINE for mask in unwalled(lungs)]
    assert np.array_equal(rules, np.stack(grown))
    assert np.array_equal(doubts, doubted(lungs, small, bodies))


@pytest.mark.parametrize(("n", "step_mm", "stacks"), [(15, 8.0, 1), (40, 4.8, 1), (40, 2.0, 3), (3, 0.5, 3), (1, 0.0, 1)])
def test_the_slices_that_the_judge_compares_lie_millimetres_apart(monkeypatch, n, step_mm, stacks):
    asked = []

    def share(lungs, small, *_):
        asked.append(small[:, 0, 0].astype(float) * step_mm)
        return np.ones(small.shape, np.float32)

    monkeypatch.setattr("pipeline.study.lungs.shares", share)
    monkeypatch.setattr("pipeline.study.lungs.seen", lambda hu, _: (hu, np.ones(hu.shape, np.uint8)))
    numbered = np.broadcast_to(np.arange(n, dtype=np.int16)[:, None, None], (n, 64, 64))
    lung_masks(np.ascontiguousarray(numbered), np.arange(n) * step_mm, (2.0, 2.0))
    assert len(asked) == stacks
    assert sorted(np.concatenate(asked)) == list(np.arange(n) * step_mm)
    assert all((np.diff(one) > 0.7 * APART_MM).all() for one in asked)


def test_the_dome_of_a_liver_stays_out_of_a_dense_series_too():
    """Phantoms whose slices lie 2 mm apart: beside slices as near as that the judge took their domes for lung."""
    phantom = chest(81005, "bacterial", matrix=128, slices=120, varied=True)
    mask, _ = judged_masks(phantom.hu, phantom.z_mm, phantom.spacing_mm)
    areas, square = mask.sum(axis=(1, 2)), np.ones((3, 3), np.uint8)
    organs = (mask & ~phantom.lung & ~phantom.effusion)[areas >= 0.4 * areas.max()].astype(np.uint8)
    pixels = max(cv2.morphologyEx(organ, cv2.MORPH_OPEN, square).sum() for organ in organs)
    assert pixels * np.prod(phantom.spacing_mm) / 100 < 5


def test_the_published_recipe_asks_no_network(sick, monkeypatch):
    given = sick[0]
    monkeypatch.setattr("pipeline.study.lungs.lung_share", None)
    lung_masks(given["hu"], given["z_mm"], given["spacing_mm"], "published")


def test_other_questions_and_their_order_change_no_bit_of_an_answer(sick):
    _, small, bodies, _ = sick
    whole = lung_share(small, bodies, range(len(small)), bodies)
    again = lung_share(small, bodies, range(len(small))[::-1], bodies)
    assert whole.tobytes() == again.tobytes()
    one = lung_share(small, bodies, [6], bodies)
    assert one[6].tobytes() == whole[6].tobytes()
    assert (np.delete(one, 6, axis=0) == 1).all()


def test_the_judge_is_computed_in_full_precision_on_one_thread():
    compiled = network()._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_the_graph_for_inference_says_what_the_network_that_was_trained_says(sick):
    """Norms folded, windows and classes in the graph, of which the rest is taken off first: the last bits move at most."""
    hu = np.stack([cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA) for image in sick[1]])
    trained = LungNet().eval()
    trained.load_state_dict(load_file(WEIGHTS))
    everywhere = np.ones(hu.shape, np.uint8)
    share = lung_share(hu, everywhere, [0, 6], everywhere)
    for place, near in ((0, [0, 0, 1]), (6, [6, 5, 7])):
        planes = torch.from_numpy(seen_by_network(hu[near].astype(np.float32))[None])
        with torch.inference_mode():
            wanted = trained(planes).softmax(dim=1)[0, 1:].sum(dim=0).numpy()
        np.testing.assert_allclose(share[place], wanted, rtol=0, atol=1e-5)
    assert share[6].max() > 0.9


def test_a_network_surer_than_numbers_reach_answers_with_a_share_that_is_never_exactly_0():
    weights = {name: values.numpy() for name, values in load_file(WEIGHTS).items()}
    sure = Compiled(_graph(weights | {"out.weight": weights["out.weight"] * 1e4}), threads=1)
    hu = np.random.default_rng(5).uniform(-1000, 200, (1, 3, *SIZE)).astype(np.float32)
    share = sure(hu)
    assert 0 < share.min() < 1e-30  # 0 is what lies beyond its view
    assert share.max() == 1


def test_a_mask_is_judged_without_torch():
    done = subprocess.run(
        [*program("judge_lightly"), "torch", "openvino"], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1 ['openvino']"


def test_every_slice_that_may_be_read_is_asked_about_and_no_other(healthy):
    _, small, bodies, lungs = healthy
    areas = lungs.sum(axis=(1, 2))
    n_asked = []
    for keep_fraction in (0.1, SliceConfig().keep_fraction, 0.8):
        asked = (shares(lungs, small, bodies, keep_fraction) < 1).any(axis=(1, 2))
        assert asked[areas >= keep_fraction * areas.max()].all()
        assert not asked[areas < keep_fraction / 2 * areas.max()].any()
        n_asked.append(asked.sum())
    assert n_asked == sorted(set(n_asked), reverse=True)


def test_a_wide_and_a_small_picture_are_answered_alike_where_both_show_the_chest(sick):
    _, small, bodies, _ = sick
    narrow = lung_share(small, bodies, [6], bodies)[6]
    pads = ((0, 0), (30, 30), (30, 30))
    padded = np.pad(bodies, pads)
    wide = lung_share(np.pad(small, pads, constant_values=-1024), padded, [6], padded)
    assert np.array_equal(wide[6, 30:-30, 30:-30] > 0.5, narrow > 0.5)
    assert lung_share(small[:, :60, :60], bodies[:, :60, :60] * 0, [6], bodies[:, :60, :60]).shape == (len(small), 60, 60)


def test_what_lies_beyond_the_view_of_the_network_is_as_the_rules_have_it(sick):
    """Of a large patient, or one whose arms lie beside the chest: neither do arms join, nor does a lung leave."""
    _, small, bodies, lungs = sick
    beside = ((0, 0), (0, 0), (60, 60))
    wide, arms = np.pad(small, beside, constant_values=40), np.pad(bodies, beside, constant_values=1)
    found = np.pad(lungs, beside)
    found[6, :, :9] = 1
    share = shares(found, wide, arms)
    seen = (arms.shape[2] - SIZE[1]) // 2
    for side in (np.s_[:, :, :seen], np.s_[:, :, -seen:]):
        assert np.array_equal(share[6][side[1:]], found[6][side[1:]])
        assert np.array_equal(restored(without_organs(found, wide, share), wide, arms, share)[side], found[side])


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
    assert {tensor.dtype for tensor in load_file(WEIGHTS).values() if tensor.is_floating_point()} == {torch.float32}
    planes = torch.zeros(2, 6, *SIZE)
    assert LungNet().eval()(planes).shape == (2, 3, *SIZE)


def refused_piece(rows, columns, hu=35):
    """Three slices of two lungs from which the rules refuse a piece: (lungs, hu, bodies, share that is sure of it)."""
    lungs, bodies = (np.zeros((3, 110, 140), np.uint8) for _ in range(2))
    bodies[:, 5:105, 5:135] = 1
    lungs[:, 20:90, 20:60] = lungs[:, 20:90, 80:120] = 1
    small = np.where(lungs > 0, -850, np.where(bodies > 0, 60, -1000)).astype(np.int16)
    lungs[1, rows, columns] = 0
    small[1, rows, columns] = hu
    share = np.where(lungs > 0, 0.999, 0.001).astype(np.float32)
    share[1, rows, columns] = 0.97
    return lungs, small, bodies, share


LATERAL = slice(50, 75), slice(100, 120)


def test_consolidation_at_the_ribs_that_the_rules_refuse_joins():
    lungs, small, bodies, share = refused_piece(*LATERAL)
    whole = restored(lungs, small, bodies, share)
    assert whole[1][LATERAL].mean() > 0.95
    assert np.array_equal(np.delete(whole, 1, axis=0), np.delete(lungs, 1, axis=0))


def test_what_the_network_doubts_or_was_not_asked_about_does_not_join():
    lungs, small, bodies, share = refused_piece(*LATERAL)
    share[1][LATERAL] = 0.85
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)
    assert np.array_equal(restored(lungs, small, bodies, np.ones_like(share)), lungs)


BESIDE_SPINE = slice(68, 80), slice(80, 96)


def test_beside_the_midline_joins_what_both_neighbours_know_and_no_aorta():
    lungs, small, bodies, share = refused_piece(*BESIDE_SPINE)
    assert restored(lungs, small, bodies, share)[1][BESIDE_SPINE].mean() > 0.95
    for other in (0, 2):
        aorta = share.copy()
        aorta[other][BESIDE_SPINE] = 0.2
        known = lungs.copy()
        known[other][BESIDE_SPINE] = 0
        assert np.array_equal(restored(known, small, bodies, aorta)[1], lungs[1])


def test_beside_the_midline_the_network_has_to_be_surer_than_to_the_side():
    for place, joins in ((BESIDE_SPINE, False), (LATERAL, True)):
        lungs, small, bodies, share = refused_piece(*place)
        rows, columns = place
        share[1, rows.start : rows.start + 10, columns] = 0.8
        whole = restored(lungs, small, bodies, share)
        assert (whole[1][place].mean() > 0.95) == joins


def test_what_measures_as_fluid_joins_only_where_the_network_is_sure_of_nearly_all_of_it():
    lungs, small, bodies, share = refused_piece(*LATERAL, hu=7)
    assert restored(lungs, small, bodies, share)[1][LATERAL].mean() > 0.95
    share[1, 50:60, 100:120] = 0.8
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)


def test_hazy_lung_joins_as_consolidation_does_and_dark_air_does_not():
    for hu, joins in ((-500, True), (-100, True), (-900, False)):
        lungs, small, bodies, share = refused_piece(*LATERAL, hu=hu)
        assert (restored(lungs, small, bodies, share)[1][LATERAL].mean() > 0.95) == joins


def test_what_measures_as_fat_joins_only_where_the_network_is_sure_of_nearly_all_of_it():
    lungs, small, bodies, share = refused_piece(*LATERAL, hu=-90)
    share[1, 50:62, 100:120] = 0.8
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)
    small[1, 50:75, 100:120:2] = 30
    assert restored(lungs, small, bodies, share)[1][LATERAL].mean() > 0.95


def test_nothing_joins_beyond_the_outline_of_all_lungs_but_a_little_at_its_edge():
    lungs, small, bodies, share = refused_piece(slice(50, 75), slice(112, 120))
    small[:, 50:75, 112:120] = 35
    lungs[:, 50:75, 112:120] = 0
    share[:, 50:75, 112:130] = 0.97
    whole = restored(lungs, small, bodies, share)
    assert whole[1, 52:73, 112:120].all()
    assert not whole[1, :, 126:].any()


def test_what_lies_inside_joins_unless_the_slice_below_shows_that_it_may_be_a_dome():
    island = slice(50, 65), slice(95, 110)
    lungs, small, bodies, share = refused_piece(*island)
    assert restored(lungs, small, bodies, share)[1][island].mean() > 0.95
    lungs[0, 45:70, 90:115] = 0
    share[0, 45:70, 90:115] = 0.01
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)


@pytest.mark.parametrize("columns", [slice(92, 112), slice(80, 96)], ids=["to the side", "beside the midline"])
def test_the_large_base_of_a_lobe_joins_though_the_slice_below_shows_no_lung(columns):
    base = slice(65, 90), columns
    lungs, small, bodies, share = refused_piece(*base)
    lungs[0, 60:90, 80:119] = 0
    share[0, 60:90, 80:119] = 0.01
    assert restored(lungs, small, bodies, share)[1][base].mean() > 0.95


def test_what_lung_surrounds_may_be_a_dome_however_large():
    inside = slice(40, 65), slice(92, 112)
    lungs, small, bodies, share = refused_piece(*inside)
    lungs[0, 35:70, 85:119] = 0
    share[0, 35:70, 85:119] = 0.01
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)


@pytest.mark.parametrize(
    ("rows", "unsure_rows", "joins"),
    [(70, 0, True), (70, 30, True), (70, 40, False), (8, 0, True), (8, 2, False)],
    ids=["lung", "lung, half sure", "lung, less sure", "lobe", "lobe, less sure"],
)
def test_a_whole_lobe_joins_though_no_lung_lies_beside_it_where_the_network_is_sure(rows, unsure_rows, joins):
    lobe = slice(20, 20 + rows), slice(80, 120)
    lungs, small, bodies, share = refused_piece(slice(20, 90), slice(80, 120))
    share[1, 20:90, 80:120] = 0.01
    share[1][lobe] = 0.97
    share[1, 20 : 20 + unsure_rows, 80:120] = 0.8
    whole = restored(lungs, small, bodies, share)
    assert (whole[1][lobe].mean() > 0.9) == joins


@pytest.mark.parametrize(("unsure_rows", "known", "joins"), [(30, 80, True), (30, 60, False), (0, 60, True)])
def test_what_the_network_is_half_sure_of_is_a_whole_lung_where_a_neighbour_shows_most_of_it(unsure_rows, known, joins):
    """Of such a piece seven tenths have to be known, as those of an aorta are not; of one that it is sure of a half."""
    lung = slice(20, 90), slice(80, 120)
    lungs, small, bodies, share = refused_piece(*lung)
    share[1, 20 : 20 + unsure_rows, 80:120] = 0.8
    for other in (0, 2):
        lungs[other, 20:90, 80:120] = 0
        share[other, 20:90, 80:120] = known / 100
    assert (restored(lungs, small, bodies, share)[1][lung].mean() > 0.9) == joins


def test_a_piece_that_no_neighbouring_slice_knows_does_not_join():
    lungs, small, bodies, share = refused_piece(*LATERAL)
    for other in (0, 2):
        lungs[other][LATERAL] = 0
        share[other][LATERAL] = 0.01
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)


def let_in(rows, columns, hu=35):
    """Three slices of two lungs into which the rules let soft tissue: (lungs, hu, share that denies it)."""
    lungs, small, _, share = refused_piece(rows, columns, hu)
    lungs[1, rows, columns] = 1
    share[1, rows, columns] = 0.02
    return lungs, small, share


MEDIAL = slice(50, 75), slice(80, 92)


def test_a_little_doubt_takes_soft_tissue_out_near_the_middle_and_not_to_the_side():
    lungs, small, share = let_in(*MEDIAL)
    share[1][MEDIAL] = 0.3
    assert without_organs(lungs, small, share)[1][MEDIAL].mean() < 0.05
    lungs, small, share = let_in(*LATERAL)
    share[0][LATERAL] = 0.01
    assert without_organs(lungs, small, share)[1][LATERAL].mean() < 0.05
    share[1][LATERAL] = 0.3
    assert np.array_equal(without_organs(lungs, small, share), lungs)


def test_soft_tissue_to_the_side_stays_where_the_slice_below_shows_lung():
    lungs, small, share = let_in(*LATERAL)
    assert np.array_equal(without_organs(lungs, small, share), lungs)


def test_an_island_that_the_network_denies_leaves_and_a_recess_of_lung_that_it_knows_stays():
    speck = slice(96, 99), slice(60, 63)
    for known in (0.02, 0.98):
        lungs, small, share = let_in(*LATERAL)
        lungs[1][speck] = 1
        share[1][speck] = known
        assert without_organs(lungs, small, share)[1][speck].all() == (known > 0.5)


AIRWAY = slice(50, 60), slice(80, 90)


def test_the_air_of_windpipe_and_bronchi_leaves_and_that_of_lung_stays():
    lungs, small, share = let_in(*AIRWAY, hu=-980)
    assert without_organs(lungs, small, share)[1][AIRWAY].mean() < 0.05
    share[1][AIRWAY] = 0.25
    assert np.array_equal(without_organs(lungs, small, share), lungs)


@pytest.mark.parametrize("hu", [-900, -850, -700])
def test_lung_beside_the_heart_that_the_network_denies_stays(hu):
    lungs, small, share = let_in(*AIRWAY, hu=hu)
    assert np.array_equal(without_organs(lungs, small, share), lungs)


def test_lung_that_measures_as_pure_air_stays():
    lungs, small, share = let_in(*AIRWAY, hu=-1024)
    small[lungs > 0] = -1024
    assert np.array_equal(without_organs(lungs, small, share), lungs)


def test_air_a_little_darker_than_lung_leaves_where_a_wall_surrounds_it():
    lungs, small, share = let_in(*AIRWAY, hu=-910)
    small[1, 47:63, 77:93][small[1, 47:63, 77:93] == -850] = 40
    assert without_organs(lungs, small, share)[1][AIRWAY].mean() < 0.05


def test_a_dome_that_thick_slices_blur_leaves():
    dome = slice(60, 80), slice(95, 115)
    lungs, small, share = let_in(*dome, hu=-380)
    assert without_organs(lungs, small, share)[1][dome].mean() < 0.05


def test_the_rim_of_dense_lung_joins_where_the_network_agrees_that_of_healthy_lung_does_not():
    lungs, small, bodies, share = refused_piece(slice(50, 75), slice(116, 120), hu=-100)
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)
    small[1, 50:75, 109:116] = -300
    whole = restored(lungs, small, bodies, share)
    assert whole[1, 52:73, 116:120].all()
    lungs[0, 45:80, 112:120] = 0
    share[0, 45:80, 112:120] = 0.01
    narrow = restored(lungs, small, bodies, share)
    assert narrow[1, 52:73, 116:118].all()
    assert not narrow[1, 52:73, 119].any()


def test_one_slice_alone_is_judged_too():
    lungs, small, bodies, share = (part[1:2] for part in refused_piece(*LATERAL))
    assert np.array_equal(restored(lungs, small, bodies, share), lungs)
