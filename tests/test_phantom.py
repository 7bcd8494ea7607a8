"""The synthetic chest: its truth, its twins, its randomness, and that it is hard enough."""

import cv2
import numpy as np
import pytest

from pipeline.phantom import chest
from pipeline.phantom.acquisition import draw_acquisition
from pipeline.phantom.chest import LABELS
from pipeline.phantom.variety import draw_variety
from pipeline.study.lungs.published import published_mask

SMALL = {"matrix": 128, "slices": 26}


@pytest.fixture(scope="module")
def trio():
    """The three twins of seed 12, at severity 0.7."""
    return {label: chest(12, label, severity=0.7, **SMALL) for label in LABELS}


def test_twins_differ_in_lesions_and_fluid_only(trio):
    for label in ("covid", "bacterial"):
        sick, healthy = trio[label], trio["healthy"]
        changed = sick.lesion | sick.effusion
        assert changed.any()
        assert np.array_equal(sick.hu[~changed], healthy.hu[~changed])
        assert not np.array_equal(sick.hu, healthy.hu)
        assert np.array_equal(sick.lung, healthy.lung & ~sick.effusion)


def test_the_same_seed_gives_the_same_bytes():
    first, second = (chest(7, "bacterial", **SMALL) for _ in range(2))
    assert first.hu.tobytes() == second.hu.tobytes()
    assert first.lesion.tobytes() == second.lesion.tobytes()


def test_lesions_lie_in_the_lung_and_fluid_outside_it(trio):
    for phantom in trio.values():
        assert not (phantom.lesion & ~phantom.lung).any()
        assert not (phantom.effusion & phantom.lung).any()
    assert not trio["healthy"].lesion.any()


def test_hu_is_what_a_scanner_stores(trio):
    hu = trio["healthy"].hu
    assert hu.dtype == np.int16
    assert hu.min() >= -1024
    assert hu.max() <= 3071
    assert np.median(hu[trio["healthy"].lung]) == pytest.approx(-850, abs=60)


@pytest.mark.parametrize("slices", [24, 26, 40, 60])
def test_few_slices_still_show_a_whole_chest(slices):
    phantom = chest(3, "healthy", matrix=64, slices=slices)
    area = phantom.lung.sum(axis=(1, 2))
    assert len(phantom.z_mm) == slices
    assert np.ptp(phantom.z_mm) >= 120
    assert np.diff(phantom.z_mm).max() <= 10
    assert area[0] == 0
    assert area[-1] == 0
    assert area.max() > 0


def test_three_slices_show_a_part_of_a_chest():
    phantom = chest(3, "healthy", matrix=64, slices=3)
    assert np.diff(phantom.z_mm).max() <= 10
    assert phantom.lung.any(axis=(1, 2)).all()


def test_the_windpipe_is_not_lung(trio):
    phantom = trio["healthy"]
    air = cv2.GaussianBlur(phantom.hu.astype(np.float32).transpose(1, 2, 0), (3, 3), 0).transpose(2, 0, 1) < -800
    for image, lung in zip(air[-6:-3], phantom.lung[-6:-3], strict=True):
        _, labels, stats, middles = cv2.connectedComponentsWithStats(image.astype(np.uint8))
        middle = phantom.hu.shape[2] / 2
        pipes = [k for k in range(1, len(stats)) if abs(middles[k][0] - middle) < 8 and 4 < stats[k, cv2.CC_STAT_AREA] < 120]
        assert pipes
        assert not lung[np.isin(labels, pipes)].any()


def test_more_severe_is_more_lung():
    for label in ("covid", "bacterial"):
        shares = [chest(5, label, severity=s, **SMALL) for s in (0.0, 0.5, 1.0)]
        shares = [p.lesion.sum() / p.lung.sum() for p in shares]
        assert 0 < shares[0] < shares[1] < shares[2]
        assert shares[2] > 0.15


def test_no_class_can_be_told_from_the_acquisition():
    """Two thousand draws, labels dealt in turn as the writer deals them: a forest stays at chance."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    draws = [draw_acquisition(seed) for seed in range(2000)]
    features = [[d.vendor, d.sharp, d.fov_mm, d.thickness_mm, d.noise_hu, d.blur_mm, d.table_mm, d.table_bend] for d in draws]
    labels = np.arange(2000) % 3
    score = cross_val_score(RandomForestClassifier(60, random_state=0), np.array(features), labels, cv=4).mean()
    assert abs(score - 1 / 3) < 3 * np.sqrt(2 / 9 / 2000)


def test_what_is_rendered_outside_the_lungs_is_the_same_for_every_label(trio):
    healthy = trio["healthy"]
    for phantom in trio.values():
        assert (phantom.vendor, phantom.sharp, phantom.spacing_mm) == (healthy.vendor, healthy.sharp, healthy.spacing_mm)
        assert np.array_equal(phantom.z_mm, healthy.z_mm)
        assert np.array_equal(phantom.hu[~healthy.lung & ~phantom.effusion], healthy.hu[~healthy.lung & ~phantom.effusion])


def test_sharp_kernels_are_noisier_and_their_grain_alternates():
    neighbours, noise = {True: [], False: []}, {True: [], False: []}
    for seed in range(24):
        phantom = chest(seed, "healthy", matrix=256, slices=3)
        air = phantom.hu[0, 4:40, 100:156].astype(float)
        if air.std() == 0 or (air > -900).any():
            continue
        air -= air.mean()
        noise[phantom.sharp].append(draw_acquisition(seed).noise_hu)
        neighbours[phantom.sharp].append((air[:, 1:] * air[:, :-1]).mean() / air.var())
    assert np.median(noise[True]) > 1.5 * np.median(noise[False])
    assert np.median(neighbours[True]) < np.median(neighbours[False])


def test_the_published_mask_loses_consolidation():
    """If it passed, the phantom would be too easy."""
    kept = []
    for seed in (2, 4, 6):
        phantom = chest(seed, "bacterial", matrix=256, slices=26, severity=0.7)
        mask = np.stack([published_mask(image) for image in phantom.hu])
        kept.append((mask & phantom.lesion).sum() / phantom.lesion.sum())
    assert np.mean(kept) < 0.8


def test_varied_patients_differ_from_plain_ones_and_from_each_other_but_not_from_themselves():
    plain, varied = (chest(5, "covid", matrix=64, slices=6, varied=way) for way in (False, True))
    again = chest(5, "covid", matrix=64, slices=6, varied=True)
    np.testing.assert_array_equal(varied.hu, again.hu)
    assert (varied.hu != plain.hu).any()
    assert len({draw_variety(seed) for seed in range(20)}) == 20


def test_a_varied_heart_takes_more_of_the_left_lung_than_a_plain_one():
    def left_share(seed, varied):
        lung = chest(seed, "healthy", matrix=96, slices=24, varied=varied).lung[5:13]
        return lung[:, :, 48:].sum() / lung[:, :, :48].sum()

    shares = [[left_share(seed, varied) for seed in range(12)] for varied in (False, True)]
    assert np.median(shares[0]) > 0.85
    assert np.median(shares[1]) < 0.8


def test_what_a_cut_field_of_view_does_not_show_is_no_lung():
    seed = next(seed for seed in range(100) if draw_variety(seed).cut_mm is not None)
    phantom = chest(seed, "healthy", matrix=96, slices=12, varied=True)
    y, x = np.ogrid[-1:1:96j, -1:1:96j]
    outside = np.hypot(y, x) > 1
    assert (phantom.hu[:, outside] == -1024).all()
    assert not phantom.lung[:, outside].any()
