"""Which slices count, what is no chest, and what the network sees: whole lungs, and nothing of their contour."""

import subprocess

import cv2
import numpy as np
import pytest

from pipeline.config import Config, FillConfig, LungConfig, SliceConfig, WindowConfig
from pipeline.errors import Reason, StudyError
from pipeline.phantom import chest
from pipeline.records import Volume
from pipeline.study.fill import fill
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import choose_slices, kept_slices, prepare, to_grey, without_rim
from tests.tools import environment, program


def volume_of(hu, z_mm, spacing_mm, places=None, n_series=0):
    places = np.arange(len(hu)) if places is None else np.asarray(places)
    return Volume(
        hu[places], np.asarray(z_mm, float)[places], places.astype(np.int32), spacing_mm, n_series=n_series or len(hu)
    )


def prepared(volume, config=Config(), seed=1):  # noqa: B008  frozen
    return prepare(volume, lung_masks(volume.hu, volume.z_mm, volume.spacing_mm), seed, config)


def test_freed_memory_is_not_asked_for_again():
    done = subprocess.run(
        program("count_page_faults"), env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 5_000  # 80,000 where every picture is given back


@pytest.fixture(scope="module")
def phantom():
    return chest(5, "covid", matrix=256, slices=40)


@pytest.fixture(scope="module")
def whole(phantom):
    """The fifteen chosen slices of a whole chest."""
    places = choose_slices(phantom.z_mm, SliceConfig())
    return volume_of(phantom.hu, phantom.z_mm, phantom.spacing_mm, places)


def ellipse(shape, centre, axes, angle=0.0):
    return cv2.ellipse(np.zeros(shape, np.uint8), centre, axes, angle, 0, 360, 1, -1) > 0


def head():
    """Skull, brain, sinuses, mouth; 2 mm pixels."""
    hu = np.full((15, 128, 128), -1000, np.int16)
    hu[:, ellipse((128, 128), (64, 64), (38, 48))] = 40
    hu[:, ellipse((128, 128), (64, 64), (36, 46)) & ~ellipse((128, 128), (64, 64), (33, 43))] = 900
    for z in range(4, 9):
        hu[z, ellipse((128, 128), (64, 30), (6, 8))] = -1000
        hu[z, ellipse((128, 128), (50, 34), (7, 7)) | ellipse((128, 128), (78, 34), (7, 7))] = -1000
    return volume_of(hu, np.arange(15) * 12.0, (2.0, 2.0))


def abdomen():
    """Wall, spine, stomach and bowel full of gas; 2 mm pixels."""
    hu = np.full((15, 192, 192), -1000, np.int16)
    hu[:, ellipse((192, 192), (96, 96), (85, 62))] = 50
    hu[:, ellipse((192, 192), (96, 135), (12, 12))] = 400
    draw = np.random.default_rng(2)
    for z in range(15):
        for _ in range(5):
            centre = (int(draw.integers(50, 142)), int(draw.integers(60, 105)))
            hu[
                z, ellipse((192, 192), centre, (int(draw.integers(6, 22)), int(draw.integers(6, 14))), draw.uniform(0, 180))
            ] = -1000
    hu[10:14, ellipse((192, 192), (125, 80), (32, 22))] = -990
    return volume_of(hu, np.arange(15) * 20.0, (2.0, 2.0))


@pytest.mark.parametrize("study", [head, abdomen])
def test_a_head_and_an_abdomen_full_of_gas_have_no_lung(study):
    with pytest.raises(StudyError) as caught:
        prepared(study())
    assert caught.value.reason == Reason.NO_LUNG_FOUND


def test_a_whole_chest_is_not_called_truncated(whole):
    assert Reason.LUNG_TRUNCATED not in [event.code for event in prepared(whole).events]


@pytest.mark.parametrize("part", [slice(0, 20), slice(16, 40), slice(12, 26)])
def test_a_series_that_ends_inside_the_lung_is_called_truncated(phantom, part):
    cropped = phantom.hu[part], phantom.z_mm[part], phantom.spacing_mm
    places = choose_slices(cropped[1], SliceConfig())
    assert Reason.LUNG_TRUNCATED in [event.code for event in prepared(volume_of(*cropped, places)).events]


def test_slices_from_the_middle_of_a_series_do_not_make_it_truncated(phantom):
    config = Config(slices=SliceConfig(first=0.25, last=0.75))
    places = choose_slices(phantom.z_mm, config.slices)
    volume = volume_of(phantom.hu, phantom.z_mm, phantom.spacing_mm, places)
    assert Reason.LUNG_TRUNCATED not in [event.code for event in prepared(volume, config).events]


def test_fifteen_slices_are_equally_spaced_and_ties_go_to_the_lower_z():
    chosen = choose_slices(np.arange(150.0), SliceConfig())
    assert chosen == [5, 15, 25, 35, 45, 55, 65, 74, 84, 94, 104, 114, 124, 134, 144]
    assert choose_slices([0.0, 1.0], SliceConfig(count=1)) == [0]


def test_slices_count_from_forty_percent_of_the_largest_lung_and_never_below_ten():
    area = np.array([900.0, 2900.0, 4100.0, 10000.0, 8000.0, 3900.0])
    assert kept_slices(area, SliceConfig()) == [2, 3, 4]
    assert kept_slices(area, SliceConfig(keep_fraction=0.0)) == [1, 2, 3, 4, 5]


def test_the_crop_holds_the_whole_lung_and_its_margin(whole):
    masks = lung_masks(whole.hu, whole.z_mm, whole.spacing_mm)
    study = prepare(whole, masks, 1, Config())
    for crop, place in zip(study.crops, study.slice_index.tolist(), strict=True):
        mask = masks[whole.slice_index.tolist().index(place)]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        margin = LungConfig().margin_px
        assert (crop.top, crop.bottom) == (max(0, rows[0] - margin), min(256, rows[-1] + 1 + margin))
        assert (crop.left, crop.right) == (max(0, columns[0] - margin), min(256, columns[-1] + 1 + margin))


def test_a_study_looks_the_same_each_time_and_otherwise_with_another_seed(whole):
    first, again, other = prepared(whole), prepared(whole), prepared(whole, seed=2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.lung, other.lung)
    assert (first.images != other.images).any()


def test_a_slice_looks_the_same_whatever_slices_come_with_it(whole):
    masks = lung_masks(whole.hu, whole.z_mm, whole.spacing_mm)
    alone = Volume(whole.hu[5:10], whole.z_mm[5:10], whole.slice_index[5:10], whole.spacing_mm, n_series=40)
    few, all_of_them = prepare(alone, masks[5:10], 1, Config()), prepare(whole, masks, 1, Config())
    place = all_of_them.slice_index.tolist().index(few.slice_index[-1])
    np.testing.assert_array_equal(few.images[-1], all_of_them.images[place])


def lungs(shape, scale=1.0):
    """Two round lungs, or two with a straight back and a notch; the same box."""
    mask = np.zeros((160, 200), bool)
    for x in (55, 145):
        one = ellipse(mask.shape, (x, 80), (36, 62))
        if shape == "notched":
            one &= ~ellipse(mask.shape, (x, 18), (int(16 * scale), 24))
            one |= ellipse(mask.shape, (x, 100), (36, 42)) | (ellipse(mask.shape, (x, 126), (30, 16)))
        mask |= one
    return mask


def textured(generator, shape=(160, 200)):
    """Lung-like grey: noise, a gradient, vessels."""
    grey = 80 + generator.normal(0, 9, shape) + np.linspace(-6, 6, shape[0])[:, None] * generator.uniform(0.3, 1)
    for _ in range(60):
        centre = tuple(int(v) for v in generator.integers(0, (shape[1], shape[0])))
        cv2.circle(grey, centre, int(generator.integers(1, 4)), 190, -1)
    return np.clip(cv2.GaussianBlur(grey, (3, 3), 0), 1, 255).astype(np.uint8)


def test_the_fill_leaves_no_blank_and_never_covers_lung():
    generator = np.random.default_rng(0)
    for shape in ("round", "notched"):
        picture, lung = textured(generator), lungs(shape)
        filled = fill(picture, lung, FillConfig(), generator)
        np.testing.assert_array_equal(filled[lung], picture[lung])
        assert (filled > 0).all()
        assert abs(float(np.median(filled[~lung])) - float(np.median(picture[lung]))) < 12


def test_the_seam_is_as_bright_as_the_lung_beside_it_though_vessels_meet_it():
    healthy = chest(3, "healthy", matrix=256, slices=15)
    picture, lung = to_grey(healthy.hu[7], WindowConfig()), without_rim(healthy.lung[7], healthy.spacing_mm[0])
    leaps = []
    for seed in range(5):
        filled = fill(picture, lung, FillConfig(), np.random.default_rng(seed)).astype(float)
        inside, cross = lung.astype(np.uint8), np.ones((3, 3), np.uint8)
        inner, outer = inside > cv2.erode(inside, cross), cv2.dilate(inside, cross) > inside
        leaps.append(filled[outer].mean() - filled[inner].mean())
    assert abs(np.mean(leaps)) < 2.5


def test_a_small_lung_fills_a_large_blank_too():
    lung = ellipse((300, 300), (40, 40), (14, 20))
    filled = fill(np.full((300, 300), 90, np.uint8), lung, FillConfig(), np.random.default_rng(0))
    assert (filled == 90).all()


def test_black_stays_black_and_translated_copies_are_not_turned():
    picture = np.tile(np.arange(100, 132, dtype=np.uint8), (64, 2))  # every column has its own grey
    lung = ellipse((64, 64), (32, 32), (20, 26))
    assert (fill(picture, lung, FillConfig(kind="black"), np.random.default_rng(0))[~lung] == 0).all()
    translated = fill(picture, lung, FillConfig(kind="translated"), np.random.default_rng(0))
    assert (translated > 0).all()


def filled_chest(shape, kind, generator):
    """A slice with a bright, blurred chest wall round lungs of `shape`, as the network sees it."""
    lung = lungs(shape)
    picture = cv2.GaussianBlur(np.where(lung, textured(generator), 235).astype(np.uint8), (5, 5), 1.0)
    shown = lung if kind == "black" else without_rim(lung, 0.75)
    return fill(picture, shown, FillConfig(kind=kind), generator)


def auc_of_contour(kind, n=200):
    """How well a linear classifier on gradient histograms tells round lungs from notched ones, cross-validated."""
    from skimage.feature import hog
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(7)
    truth = np.arange(n) % 2
    pictures = [filled_chest(("round", "notched")[label], kind, generator) for label in truth]
    features = [hog(picture, orientations=6, pixels_per_cell=(20, 20), cells_per_block=(1, 1)) for picture in pictures]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return roc_auc_score(truth, cross_val_predict(model, np.array(features), truth, cv=5, method="predict_proba")[:, 1])


def test_a_classifier_cannot_tell_contours_apart_once_the_blank_is_filled():
    assert auc_of_contour("black") > 0.9
    assert auc_of_contour("warped") < 0.6


def test_the_window_is_real_hounsfield_units_and_the_published_mapping_is_a_preset():
    hu = np.array([-1450, -1000, -700, 50, 3000], np.int16).clip(-1024)
    assert to_grey(hu, WindowConfig()).tolist() == [72, 76, 128, 255, 255]
    assert to_grey(hu, WindowConfig(kind="jpeg")).tolist() == [0, 0, 100, 255, 255]


def test_greys_are_the_same_for_a_slice_a_part_of_it_and_a_stack():
    hu = np.random.default_rng(2).integers(-1024, 3072, (3, 20, 600)).astype(np.int16)
    window = WindowConfig()
    low = window.level_hu - window.width_hu / 2
    wanted = np.clip(np.rint((hu - low) * (255 / window.width_hu)), 0, 255)
    np.testing.assert_array_equal(to_grey(hu, window), wanted)
    np.testing.assert_array_equal(to_grey(hu[1, 3:9, 5:20], window), wanted[1, 3:9, 5:20])
    beyond = np.array([[-32768, -1025, 3072, 32767]], np.int16)
    assert to_grey(beyond, window).tolist() == [to_grey(beyond.clip(-1024, 3071), window)[0].tolist()]
