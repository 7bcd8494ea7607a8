"""The lung mask: it keeps the disease, leaves the rest of the chest out, and does so whatever the scan is like."""

import csv

import cv2
import numpy as np
import pytest

from pipeline.phantom import chest
from pipeline.study.lungs import along, lung_masks
from pipeline.study.lungs.air import all_shrunk, body, shrunk
from pipeline.study.lungs.along import bridged
from pipeline.study.lungs.consolidation import bordering_hu, bronchial, consolidated
from pipeline.study.lungs.field import WALL_PX, walled
from pipeline.study.lungs.published import published_mask
from pipeline.study.lungs.rays import RAYS, Rays, _bridged
from pipeline.study.lungs.shapes import closed, largest
from pipeline.study.lungs.sides import _seam, sides


def dice(mask, truth):
    return 2 * (mask & truth).sum() / max(mask.sum() + truth.sum(), 1)


def masked(phantom, **changed):
    given = {"hu": phantom.hu, "z_mm": phantom.z_mm, "spacing_mm": phantom.spacing_mm} | changed
    return lung_masks(given["hu"], given["z_mm"], given["spacing_mm"])


def scikit_recipe(image):
    """The published recipe, written with scikit-image and scipy."""
    from scipy import ndimage
    from skimage import filters, measure, morphology, segmentation

    labels = measure.label(segmentation.clear_border(image < -600))
    regions = sorted(measure.regionprops(labels), key=lambda region: -region.area)[:2]
    kept = [region.label for region in regions if region.area >= 3000 * image.size / 512**2]
    mask = ndimage.binary_erosion(np.isin(labels, kept), morphology.disk(2))
    mask = np.pad(mask, 20)
    mask = ndimage.binary_erosion(ndimage.binary_dilation(mask, morphology.disk(10)), morphology.disk(10))[20:-20, 20:-20]
    return ndimage.binary_fill_holes(filters.roberts(mask.astype(float)) > 0)


@pytest.fixture(scope="module")
def healthy():
    return chest(3, "healthy", matrix=256, slices=15)


@pytest.fixture(scope="module")
def series(real_data):
    """The three real series: name -> (hu, z_mm, spacing_mm)."""
    from pipeline.archive import Decoder, build_study, list_folder, read_volume, scan_file
    from pipeline.config import Config

    root, read = real_data / "covid-ct-md", {}
    with Decoder() as decoder:
        for name in ("P001", "cap001", "normal001"):
            records = [record for file in list_folder(root, name)[1] for record in scan_file(root, file).records]
            (uid,) = {header.study_uid for record in records for header in record.headers}
            chosen = build_study(uid, records, Config().series, b"k" * 32).candidates[0]
            volume = read_volume(root, chosen, range(len(chosen.slices)), decoder)
            read[name] = volume.hu, volume.z_mm, volume.spacing_mm
    return read


def wrong_points(folder, series, masks_of):
    wrong = []
    for row in csv.DictReader((folder / "points.csv").read_text(encoding="utf-8").splitlines()):
        hu, z_mm, spacing_mm = series[row["series"]]
        place = int(np.argmin(np.abs(z_mm - float(row["z_mm"]))))
        inside = masks_of(row["series"], hu, z_mm, spacing_mm, place)[int(row["y_px"]), int(row["x_px"])]
        if inside != (row["expected"] == "inside"):
            wrong.append((row["series"], row["z_mm"], row["what"]))
    return wrong


@pytest.mark.real_data
@pytest.mark.long
def test_all_points_of_the_real_series_pass_when_every_slice_is_given(real_data, series):
    masks = {name: lung_masks(*given) for name, given in series.items()}
    assert wrong_points(real_data, series, lambda name, _hu, _z, _mm, place: masks[name][place]) == []


@pytest.mark.real_data
def test_all_points_pass_when_only_fifteen_slices_are_given(real_data, series):
    def sparse(_, hu, z_mm, spacing_mm, place):
        step = round(len(z_mm) / 15)
        chosen = np.arange(place % step, len(z_mm), step)
        return lung_masks(hu[chosen], z_mm[chosen], spacing_mm)[place // step]

    assert wrong_points(real_data, series, sparse) == []


@pytest.mark.real_data
def test_the_published_recipe_passes_ten_of_the_twenty_four_points(real_data, series):
    wrong = wrong_points(real_data, series, lambda _name, hu, _z, _mm, place: published_mask(hu[place]))
    assert len(wrong) == 14


@pytest.mark.real_data
def test_the_published_recipe_in_opencv_is_pixel_identical_to_scikit_image_on_real_slices(series):
    for hu, _, _ in series.values():
        for image in hu[::20]:
            np.testing.assert_array_equal(published_mask(image), scikit_recipe(image))


def test_the_published_recipe_in_opencv_is_pixel_identical_to_scikit_image(healthy):
    for image in healthy.hu[2:12:3]:
        np.testing.assert_array_equal(published_mask(image), scikit_recipe(image))
    assert published_mask(healthy.hu[7]).any()


def with_hu(phantom, change):
    """The phantom's HU after `change(hu, y, x)`; y and x run over millimetres from the middle."""
    hu = phantom.hu.copy()
    axis = (np.arange(hu.shape[1]) - hu.shape[1] / 2) * phantom.spacing_mm[0]
    change(hu, *np.meshgrid(axis, axis, indexing="ij"))
    return hu


def table(hu, y, x):
    hu[:, (y > 118) & (y < 122) & (abs(x) < 190)] = 200


def blanket(hu, y, x):
    fold = (abs(y + 112 - 0.002 * x**2 + 4 * np.sin(x / 9)) < 2) & (abs(x) < 150)
    hu[:, fold] = np.maximum(hu[:, fold], -250)


def arms(hu, y, x):
    for side in (-1, 1):
        hu[:, (x - 172 * side) ** 2 + (y - 20) ** 2 < 20**2] = 50


def emphysema(hu, _y, _x):
    lung = (hu < -700) & (hu > -980)
    hu[lung] -= 90


@pytest.mark.parametrize("change", [table, blanket, arms, emphysema])
def test_what_lies_about_the_chest_or_thins_the_lung_changes_no_outline(healthy, change):
    assert dice(masked(healthy, hu=with_hu(healthy, change)), healthy.lung) > 0.95


def test_a_prone_patient_has_the_same_lungs(healthy):
    assert dice(masked(healthy, hu=np.ascontiguousarray(healthy.hu[:, ::-1]))[:, ::-1], healthy.lung) > 0.95


@pytest.mark.parametrize("matrix", [128, 512])
def test_other_matrices_give_the_same_lungs(healthy, matrix):
    spacing = healthy.spacing_mm[0] * 256 / matrix
    hu = np.stack([cv2.resize(image, (matrix, matrix), interpolation=cv2.INTER_AREA) for image in healthy.hu])
    mask = masked(healthy, hu=hu, spacing_mm=(spacing, spacing))
    truth = np.stack([cv2.resize(lung.astype(np.uint8), (matrix, matrix)) > 0 for lung in healthy.lung])
    assert dice(mask, truth) > 0.94


@pytest.mark.parametrize("sigma_hu", [40, 90])
def test_a_sharp_noisy_kernel_gives_the_same_lungs(healthy, sigma_hu):
    noise = np.random.default_rng(0).normal(0, sigma_hu, healthy.hu.shape)
    assert dice(masked(healthy, hu=np.clip(healthy.hu + noise, -1024, 3071).astype(np.int16)), healthy.lung) > 0.95


def test_one_lung_missing_leaves_the_other_as_it_was(healthy):
    columns = np.arange(256) < 128
    gone = healthy.lung & columns
    hu = np.where(gone, 30, healthy.hu).astype(np.int16)
    assert dice(masked(healthy, hu=hu), healthy.lung & ~columns) > 0.95


def test_bowel_gas_below_the_lung_is_no_lung(healthy):
    y, x = np.ogrid[:256, :256]
    gas = (y - 110) ** 2 + (x - 150) ** 2 < 20**2
    hu = healthy.hu.copy()
    hu[:2, gas] = -1000
    assert not masked(healthy, hu=hu)[:2, gas].any()


def test_the_lungs_are_told_apart_where_they_touch():
    image = np.full((60, 100), -850, np.int16)
    image[:, 47:50] = -500  # the junction line, thinner than it is dense
    right, left = sides(np.ones((60, 100), np.uint8), image, 52)
    assert not right[:, 50:].any()
    assert not left[:, :47].any()
    assert (right | left).sum() == 60 * 99


def test_an_empty_stack_and_a_stack_without_air_have_no_lung():
    assert lung_masks(np.zeros((0, 64, 64), np.int16), np.zeros(0), (1.0, 1.0)).shape == (0, 64, 64)
    assert not lung_masks(np.full((3, 64, 64), 40, np.int16), np.arange(3.0), (1.0, 1.0)).any()


def test_threads_change_no_pixel(healthy):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = masked(healthy)
        cv2.setNumThreads(4)
        np.testing.assert_array_equal(one, masked(healthy))
    finally:
        cv2.setNumThreads(before)


def bridge(lungs, lesion, z_mm, hu=40):
    """What `bridged` adds in the middle slice of a chest of air with a `lesion` there, `hu` dense."""
    image = np.where(lungs > 0, -850, 40).astype(np.int16)
    image[2][lesion] = hu
    bodies = np.ones_like(lungs)
    rays = Rays.round_middle(bodies, image)
    return bridged(lungs, image, bodies, z_mm, [rays.through(each) for each in image])[2] > lungs[2]


def test_what_lung_surrounds_and_lies_below_and_above_is_bridged_unless_it_is_fluid():
    lungs, lesion, z_mm = np.ones((5, 80, 80), np.uint8), np.zeros((80, 80), bool), np.arange(5) * 18.0
    lesion[30:44, 15:27] = True
    lungs[2][lesion] = 0
    assert bridge(lungs, lesion, z_mm)[lesion].all()
    assert not bridge(lungs, lesion, z_mm, hu=8)[36:40, 19:23].any()  # its blurred rim has no HU of its own
    assert not bridge(lungs, lesion, z_mm * 3).any()
    lungs[3:, lesion] = 0  # nothing above it
    assert not bridge(lungs, lesion, z_mm).any()


def test_a_heart_with_lung_below_and_above_stays_out_unless_air_bronchograms_say_it_is_lung():
    lungs, heart, z_mm = np.ones((5, 80, 80), np.uint8), np.zeros((80, 80), bool), np.arange(5) * 18.0
    heart[20:60, 2:38] = True
    lungs[2][heart] = 0
    lungs[:, :20] = lungs[:, 60:] = lungs[:, :, :2] = 0
    assert not bridge(lungs, heart, z_mm)[25:55, 5:33].any()
    image = np.where(heart, 40, -850)
    image[26:58:6, 6:36:6] = -500  # cut bronchi
    assert bridge(lungs, heart, z_mm, hu=image[heart])[25:55, 5:33].mean() > 0.9


def test_a_second_pass_where_neighbours_changed_adds_what_one_over_every_slice_adds(monkeypatch):
    lungs, lesion = np.ones((12, 80, 80), np.uint8), (slice(30, 44), slice(15, 27))
    lungs[3:6, *lesion] = 0
    image, bodies, z_mm = np.where(lungs > 0, -850, 40).astype(np.int16), np.ones_like(lungs), np.arange(12) * 18.0
    rays = [Rays.round_middle(bodies, image).through(each) for each in image]
    two_passes = bridged(lungs, image, bodies, z_mm, rays)
    monkeypatch.setattr(along, "PASSES", 1)
    one_pass = bridged(lungs, image, bodies, z_mm, rays)
    assert one_pass[3:6, *lesion].sum() < two_passes[3:6, *lesion].sum()
    np.testing.assert_array_equal(two_passes, bridged(one_pass, image, bodies, z_mm, rays))


@pytest.mark.parametrize("radius", [3.0, 22.5])
def test_closing_inside_the_box_of_a_mask_loses_nothing_of_closing_in_a_picture_without_end(radius):
    noise = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(120, 140)), (0, 0), 4)
    mask = (noise > noise.std()).astype(np.uint8)
    mask[:, :10] = mask[:25] = 0  # its box is smaller than the picture, but touches two borders
    wide = cv2.distanceTransform(1 - np.pad(mask, 80), cv2.DIST_L2, 5) <= radius
    shut = cv2.distanceTransform(wide.astype(np.uint8), cv2.DIST_L2, 5)[80:-80, 80:-80] > radius
    assert shut.sum() > mask.sum()
    np.testing.assert_array_equal(closed(mask, radius), shut)


def test_rays_reach_to_the_outermost_pixel_and_meet_bone_only_beyond_it(healthy):
    hu = healthy.hu[7]
    rays = Rays.round_middle(np.ones((1, *hu.shape), np.uint8), hu[None])
    lung, bone = healthy.lung[7], (hu > 130) & (abs(np.arange(256) - rays.middle + 0.5) > 11)
    reach = rays.reach(lung.astype(np.uint8))
    _, met = rays.through(hu).ribs(reach)
    for ray in range(RAYS):
        there = rays.angle == ray
        assert reach[ray] == rays.radius[there & lung].max(initial=0)
        assert not met[ray] or (rays.radius[there & bone] > reach[ray]).any()
    assert met.sum() > RAYS / 4


def test_rays_that_are_cut_to_a_part_of_a_slice_meet_the_bone_of_the_whole(healthy):
    hu = healthy.hu[7]
    whole = Rays.round_middle(np.ones((1, *hu.shape), np.uint8), hu[None]).through(hu)
    lung, box = healthy.lung[7].astype(np.uint8), (slice(80, 200), slice(30, 220))
    kept = np.zeros_like(lung)
    kept[box] = lung[box]
    part = whole.through(hu, whole.cut(box))
    assert np.array_equal(part.reach(lung[box]), whole.reach(kept))
    line, met = whole.ribs(whole.reach(kept))
    assert np.array_equal(part.ribs(part.reach(lung[box])), (line, met))
    assert np.array_equal(part.within(line), whole.within(line)[box])


@pytest.mark.parametrize(("known", "bridged_from", "bridged_to"), [((30, 40), 30, 40), ((30, 40, 100), 30, 40), ((20,), 0, 0)])
def test_ribs_are_bridged_on_each_side_for_itself_and_only_where_they_are_near(known, bridged_from, bridged_to):
    first = np.zeros((2, RAYS // 2), np.float32)
    first[0, RAYS // 2 - 3] = 50
    first[1, known] = 50
    (alone, side), nothing = _bridged(first), _bridged(np.zeros_like(first))
    assert not alone.any()
    assert not nothing.any()
    assert not np.delete(side, np.arange(bridged_from, bridged_to + 1)).any()


def test_slices_that_are_shrunk_together_are_what_each_is_alone():
    hu = np.random.default_rng(3).integers(-1024, 3071, (6, 130, 150)).astype(np.int16)
    for mm in (0.4, 0.5, 0.7, 1.0, 1.37, 2.0, 2.5):
        alone = [shrunk(image, (mm, mm)) for image in hu]
        np.testing.assert_array_equal(all_shrunk(hu, (mm, mm)), alone)


@pytest.mark.parametrize("seed", range(4))
def test_the_seam_between_the_lungs_is_the_densest_way_from_top_to_bottom(seed):
    hu = np.random.default_rng(seed).integers(-5, 3, (40, 100)).astype(np.int16) * 200
    path = _seam(hu, 50)
    density = np.clip(hu, -1000, 0).astype(int)
    best = density[0, 35:66]
    for row in density[1:, 35:66]:
        best = row + np.maximum.reduce([best, np.append(best[1:], -99999), np.append(-99999, best[:-1])])
    assert abs(np.diff(path)).max() <= 1
    assert density[np.arange(40), path].sum() == best.max()


def test_the_largest_region_is_the_first_of_the_largest_however_many_there_are():
    for n, odd in ((1, 0), (2, 0), (3, 0), (3, 1), (20, 0), (20, 1)):
        mask = np.zeros((60, 60), np.uint8)
        for number in range(n):
            mask[2 * number + odd, : 5 + (number >= n // 2)] = 1
        assert np.flatnonzero(largest(mask).any(axis=1)).tolist() == [2 * (n // 2) + odd]
        mask[50:, 30:] = 1
        assert np.flatnonzero(largest(mask).any(axis=1)).tolist() == list(range(50, 60))


UNSEEN_KNOWN = {
    ("aflt13-s16", "-527.0", "right main bronchus"),
}
"""What is wrong on series of other scanners, as docs/lung.md says."""


def unseen_series(root, name):
    """(hu, z_mm, spacing_mm) of a series that was cut down to what a run reads, and its neighbours."""
    from pipeline.archive import Decoder, build_study, list_folder, read_volume, scan_file
    from pipeline.config import SeriesConfig

    lenient = SeriesConfig(min_slices=1, min_extent_mm=0.0, max_spacing_mm=1000.0, kernels="any")
    with Decoder() as decoder:
        records = [record for file in list_folder(root, name)[1] for record in scan_file(root, file).records]
        (uid,) = {header.study_uid for record in records for header in record.headers}
        chosen = build_study(uid, records, lenient, b"k" * 32).candidates[0]
        volume = read_volume(root, chosen, range(len(chosen.slices)), decoder)
    read = {
        float(row["z_mm"])
        for row in csv.DictReader((root / "slices.csv").read_text(encoding="utf-8").splitlines())
        if row["series"] == name and row["role"] == "read"
    }
    at = [i for i, z in enumerate(volume.z_mm) if min(abs(z - place) for place in read) < 0.01]
    return volume.hu[at], volume.z_mm[at], volume.spacing_mm


@pytest.mark.real_data
def test_no_heart_liver_or_lost_lung_on_series_of_other_scanners_but_at_the_named_points(real_data):
    root = real_data / "unseen"
    if not root.exists():
        pytest.skip("no series of other scanners beside the test data")
    read = {name: unseen_series(root, name) for name in ("ldx1-L", "ldx1-B", "ricord-ge", "pe-ge16", "aflt13-s16")}
    masks = {name: lung_masks(*given) for name, given in read.items()}
    assert set(wrong_points(root, read, lambda name, _hu, _z, _mm, place: masks[name][place])) <= UNSEEN_KNOWN


def organ_cm2(mask, phantom):
    """The most that any slice with much lung holds of neither lung nor fluid, where that is wider than 8 mm."""
    size = 2 * round(4 / phantom.spacing_mm[0]) + 1
    wrong = (mask & ~phantom.lung & ~phantom.effusion).astype(np.uint8)
    area = mask.sum(axis=(1, 2))
    opened = [cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((size, size), np.uint8)).sum() for image in wrong]
    return float(np.max(np.array(opened)[area > 0.4 * area.max()]) * phantom.spacing_mm[0] ** 2 / 100)


@pytest.mark.parametrize("seed", [3, 11, 13, 16])
def test_a_big_heart_is_no_lung_though_the_other_lung_reaches_over_the_midline(seed):
    phantom = chest(seed, "healthy", matrix=192, slices=15, varied=True)
    mask = masked(phantom)
    assert organ_cm2(mask, phantom) < 8
    assert dice(mask, phantom.lung) > 0.95


@pytest.mark.parametrize("seed", [6, 12])
def test_a_lung_that_the_field_of_view_cuts_is_found_whole(seed):
    phantom = chest(seed, "healthy", matrix=192, slices=15, varied=True)
    assert (masked(phantom) & phantom.lung).sum() > 0.97 * phantom.lung.sum()


def test_a_wall_is_drawn_where_the_field_cuts_a_lung_and_not_where_it_cuts_the_table():
    y, x = np.ogrid[-99.5:100, -99.5:100]
    chest_hu = np.full((200, 200), -1000, np.int16)
    chest_hu[(x / 98) ** 2 + (y / 70) ** 2 < 1.1] = 40
    chest_hu[((np.abs(x) - 60) / 30) ** 2 + (y / 45) ** 2 < 1] = -850
    whole = chest_hu.copy()
    whole[75:, :][chest_hu[75:, :] < -900] = -930  # the table's foam, from one edge of the picture to the other
    cut = chest_hu[:, 40:160].copy()
    plain = [walled(image[None], body(image)[None])[1][0] for image in (whole, cut)]
    assert not plain[0][:, :WALL_PX].any()
    assert plain[1][100 + WALL_PX, WALL_PX + 2]
    assert not body(cut)[100, 2]


def test_lung_without_air_proves_nothing_about_the_tissue_that_borders_it():
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, 20:30] = 1
    lung = np.zeros((40, 40), np.uint8)
    lung[5:35, 2:19] = 1
    liver, dense = np.full((40, 40), 60, np.int16), np.full((40, 40), -300, np.int16)
    assert bordering_hu(labels, 2, lung, liver)[1] == -1000
    assert bordering_hu(labels, 2, lung, dense)[1] == -300


def test_bronchi_are_small_spots_that_run_through_a_region_and_no_windpipe_at_its_edge():
    labels = np.zeros((60, 60), np.int32)
    labels[5:55, 5:55] = 1
    core = labels > 0
    spots, windpipe, edge = (np.where(core, 40, -850).astype(np.int16) for _ in range(3))
    spots[12:50:12, 12:50:12] = -600
    windpipe[25:35, 25:35] = -980
    edge[8:10, 8:10] = edge[14:16, 8:10] = -600
    assert [bool(bronchial(labels, 2, hu, core)[1]) for hu in (spots, windpipe, edge)] == [True, False, False]


def test_slivers_of_a_windpipe_beside_the_midline_are_no_bronchi():
    """The other half of it lies on the other side; bronchi of the same place and size do prove a region."""
    body_ = np.zeros((80, 120), np.uint8)
    body_[5:75, 5:115] = 1
    lung, mirror = np.zeros_like(body_), np.zeros_like(body_)
    lung[15:65, 10:30] = 1
    mirror[30:52, 31:52] = 1
    hu = np.where(lung, -850, 40).astype(np.int16)
    rays = Rays.round_middle(body_[None], hu[None])
    windpipe, bronchi = hu.copy(), hu.copy()
    for row in (34, 45):
        cv2.circle(windpipe, (53, row), 5, -1000, -1)
        cv2.circle(bronchi, (44, row), 1, -1000, -1)
    joined = [
        consolidated(lung, mirror, image, mirror, rays.through(image))[36:43, 35:45].any() for image in (windpipe, bronchi)
    ]
    assert joined == [False, True]
