"""Exported slices: each picture's greys give its HU, in whatever window, compression, size and order; or it is refused."""

import cv2
import numpy as np
import pytest

import pipeline
from pipeline.archive import Decoder, greys
from pipeline.archive.exported import from_head, pictures_hu
from pipeline.archive.padding import beyond_field
from pipeline.config import Config, FillConfig, SeriesConfig
from pipeline.phantom.chest import chest
from pipeline.pseudonym import make_key
from pipeline.records import SliceSource
from pipeline.study.fill import fill
from pipeline.study.lungs import lung_masks

WINDOWS = [(-1450, 50), (-1350, 150), (-1000, -235), (-1000, 400), (-1200, 0), (-1024, 1300), (-1250, 250), (-1150, 350)]
OWN = SliceSource("", 0.0, slope=0.0)
WITHIN_HU = 40


@pytest.fixture(scope="module")
def chests():
    """Two chests, noisy and sharp or soft, of ten slices each, all of which show lung."""
    return [chest(seed, label, matrix=256, slices=24) for seed, label in ((70_001, "covid"), (70_002, "healthy"))]


def exported(hu, window, *, side=None, marks=True):
    """A slice as it is exported: BGR, in a window, resized, with letters, a scale bar and a coloured arrow."""
    low, high = window
    grey = np.clip(np.rint((hu - float(low)) * 255 / (high - low)), 0, 255).astype(np.uint8)
    if side:
        grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_LINEAR)
    picture, unit = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), grey.shape[0] / 256
    if marks:
        at, white = (lambda x, y: (round(x * unit), round(y * unit))), (255, 255, 255)
        cv2.putText(picture, "R", at(6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6 * unit, white, max(1, round(unit)))
        cv2.putText(picture, "IM 12", at(190, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * unit, white, max(1, round(unit)))
        cv2.line(picture, at(249, 80), at(249, 180), white, max(1, round(unit)))
        cv2.arrowedLine(picture, at(60, 60), at(85, 110), (0, 220, 255), max(1, round(1.5 * unit)))
    return picture


def encoded(picture, quality):
    """PNG, or JPEG of a quality."""
    options = (".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality]) if quality else (".png", picture)
    return cv2.imencode(*options)[1].tobytes()


def read(decoder, data):
    return alone(decoder.decode_picture(data))


def alone(stored):
    """The HU of a picture that is a patient's only one."""
    return pictures_hu([stored.astype(np.int32)], [OWN], stored.shape)[0]


def errors_of(hu, phantom, place):
    """How far air, lung and soft tissue of a picture are from the truth, in HU, at their medians."""
    true = cv2.resize(phantom.hu[place], hu.shape[::-1], interpolation=cv2.INTER_LINEAR)
    lung = cv2.resize(phantom.lung[place].astype(np.uint8), hu.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    soft = cv2.blur(true, (5, 5))
    tissues = cv2.blur(true, (9, 9)) < -960, lung & (soft < -700), (soft > 0) & (soft < 90)
    return [abs(float(np.median(hu[where]) - np.median(true[where]))) for where in tissues if where.sum() > 200]


@pytest.mark.parametrize("window", WINDOWS)
def test_air_lung_and_soft_tissue_are_found_in_every_window_size_and_compression(chests, window):
    wrong = []
    with Decoder() as decoder:
        for number, (place, quality, side) in enumerate(((3, 75, None), (9, 0, 131), (14, 95, 612), (19, 85, None))):
            phantom = chests[number % 2]
            hu = read(decoder, encoded(exported(phantom.hu[place], window, side=side), quality))
            wrong += [(place, error) for error in errors_of(hu, phantom, place) if error > WITHIN_HU]
    assert wrong == []


def test_windows_that_nobody_thought_of_are_found_too(chests):
    draw = np.random.default_rng(3)
    errors = []
    for number in range(60):
        low, width = draw.uniform(-1500, -1000), draw.uniform(900, 2800)
        side, quality = int(draw.choice([140, 256, 500])), int(draw.choice([0, 75, 95]))
        phantom, place = chests[number % 2], int(draw.integers(4, 20))
        data = encoded(exported(phantom.hu[place], (low, low + width), side=side, marks=False), quality)
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        errors.append(max(errors_of(alone(grey), phantom, place)))
    assert sum(error > WITHIN_HU for error in errors) <= 1


def test_air_of_a_windpipe_is_not_taken_for_lung_where_a_slice_shows_no_lung():
    above = chest(992_000, "covid", matrix=256, slices=24)
    low, high = -989, 606
    for place in (1, 23):
        (table,) = greys.own_tables([exported(above.hu[place], (low, high), marks=False)[..., 0]])
        assert abs(np.interp((-850 - low) * 255 / (high - low), np.arange(256), table) + 850) < WITHIN_HU


def test_slices_of_a_patient_tell_each_other_fat_from_muscle():
    fat, places = chest(997_001, "bacterial", matrix=256, slices=24), range(3, 21, 3)
    files = [encoded(exported(fat.hu[place], (-1200, 0)), 75) for place in places]
    with Decoder() as decoder:
        stored = [decoder.decode_picture(data) for data in files]
    together = pictures_hu(stored, [OWN] * len(stored), stored[0].shape)
    assert max(max(errors_of(hu, fat, place)) for hu, place in zip(together, places, strict=True)) < WITHIN_HU


def test_lungs_that_run_out_at_the_edge_of_a_cropped_picture_are_not_taken_for_air_around(chests):
    phantom, places = chests[1], (8, 11, 14)
    rows, columns = (np.flatnonzero(phantom.lung.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    part = slice(rows[0] + 10, rows[-1] - 10), slice(columns[0] + 10, columns[-1] - 10)
    stored = [exported(phantom.hu[place], (-1350, 150), marks=False)[..., 0].astype(np.int32)[part] for place in places]
    for place, hu in zip(places, pictures_hu(stored, [OWN] * 3, stored[0].shape), strict=True):
        lung = phantom.lung[place][part]
        assert abs(np.median(hu[lung]) - np.median(phantom.hu[place][part][lung])) < WITHIN_HU


def test_each_window_of_a_patient_whose_pictures_are_in_two_is_found(chests):
    places, windows = [5, 8, 11, 14, 17, 19], [(-1450, 50), (-1000, 400)]
    stored = [exported(chests[0].hu[place], windows[place % 2])[..., 0].astype(np.int32) for place in places]
    together = pictures_hu(stored, [OWN] * len(stored), stored[0].shape)
    assert max(max(errors_of(hu, chests[0], place)) for hu, place in zip(together, places, strict=True)) < WITHIN_HU
    assert pictures_hu([], [], (256, 256)) == []


@pytest.mark.parametrize("quality", [0, 75, 90])
def test_padding_round_a_field_is_found_under_letters_and_compression(chests, quality):
    y, x = np.ogrid[-127.5:128, -127.5:128]
    circle = np.hypot(y, x) < 105
    slices = [np.where(circle, chests[0].hu[place], -1024) for place in (6, 10, 14, 18)]
    files = [encoded(exported(hu, (-1450, 50)), quality) for hu in slices]
    greys_of = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in files]
    beyond = beyond_field(greys_of)
    assert (beyond & (np.hypot(y, x) < 102)).mean() < 0.005
    assert (~beyond & (np.hypot(y, x) > 111)).mean() < 0.005
    assert beyond_field(greys_of[:2]) is None
    bare = [exported(hu, (-1450, 50), marks=False)[..., 0] for hu in chests[0].hu[6:18:4]]
    bare[0][0, 0] = 255
    assert beyond_field(bare) is None


def test_the_white_wall_of_a_chest_in_the_corners_of_cropped_pictures_is_no_padding(chests):
    rows, columns = (np.flatnonzero(chests[1].lung.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    part = slice(rows[0] + 8, rows[-1] - 8), slice(columns[0] + 8, columns[-1] - 8)
    cropped = [exported(chests[1].hu[place], (-1000, -235), marks=False)[..., 0][part] for place in (8, 10, 12, 14)]
    for grey in cropped:
        grey[[0, 0, -1, -1], [0, -1, 0, -1]] = 255
    assert beyond_field(cropped) is None


@pytest.mark.parametrize("window", [(-1000, -235), (-1450, 50), (-1000, 400)])
def test_no_picture_has_its_whole_body_for_a_lung(chests, window):
    phantom, places = chests[0], [5, 8, 11, 14, 17, 20]
    with Decoder() as decoder:
        hu = np.stack([read(decoder, encoded(exported(phantom.hu[place], window), 85)) for place in places])
    pixel_mm2 = phantom.spacing_mm[0] ** 2
    found = lung_masks(hu, phantom.z_mm[places], phantom.spacing_mm)
    truth = phantom.lung[places]
    assert (2 * (found & truth).sum() / (found.sum() + truth.sum())) > 0.93
    assert (found & ~truth).sum(axis=(1, 2)).max() * pixel_mm2 < 2500


def test_greys_that_show_no_lung_or_no_chest_are_refused(chests):
    hu = chests[1].hu[12]
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    others = [exported(hu, (-160, 240))[..., 0], exported(hu, (-500, 500))[..., 0], ramp, np.zeros((256, 256), np.uint8)]
    others += [np.full((256, 256), 255, np.uint8), np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)]
    for grey in others:
        assert greys.own_tables([grey]) == [None]


def test_white_margins_are_air_and_change_no_grey(chests):
    grey = exported(chests[0].hu[12], (-1350, 150), marks=False)[..., 0]
    framed = cv2.copyMakeBorder(grey, 20, 40, 30, 10, cv2.BORDER_CONSTANT, value=255)
    hu = alone(framed)
    assert (hu[:20] == -1000).all()
    np.testing.assert_array_equal(hu[20:-40, 30:-10], alone(grey))


def test_white_chest_wall_along_the_edge_is_no_margin():
    cropped = np.full((200, 240), 255, np.uint8)
    cv2.ellipse(cropped, (75, 100), (50, 80), 0, 0, 360, 50, -1)
    cv2.ellipse(cropped, (165, 100), (50, 80), 0, 0, 360, 50, -1)
    assert cropped[greys.content(cropped)].shape == cropped.shape
    table = greys.table_of(-1000.0, -235.0)
    assert table[cropped].max() == greys.SOFT_HU


def test_a_coloured_mark_in_the_lung_is_covered_with_lung(chests):
    with Decoder() as decoder:
        plain, marked = (
            read(decoder, encoded(exported(chests[1].hu[13], (-1450, 50), marks=marks), 90)) for marks in (False, True)
        )
    arrow = slice(62, 110), slice(58, 90)
    assert np.abs(marked[arrow].astype(int) - plain[arrow]).mean() < 60
    assert marked[arrow].max() < plain[arrow].max() + 150


def test_pictures_are_put_feet_first_whichever_way_they_run(chests):
    for phantom in chests:
        pictures = list(phantom.hu[3:21:2])
        assert not from_head(pictures)
        assert from_head(pictures[::-1])
        assert not from_head([pictures[4]])


def write_patient(folder, phantom, places, window, quality=85):
    folder.mkdir(parents=True)
    for number, place in enumerate(places):
        data = encoded(exported(phantom.hu[place], window), quality)
        (folder / f"IM{number + 1}.jpg").write_bytes(data)


def test_five_slices_in_any_window_and_either_order_are_a_patient_and_four_are_too_few(chests, weights, tmp_path):
    places = [6, 9, 12, 15, 18]
    write_patient(tmp_path / "a" / "up", chests[0], places, (-1450, 50))
    write_patient(tmp_path / "a" / "down", chests[0], places[::-1], (-1450, 50))
    write_patient(tmp_path / "a" / "narrow", chests[0], places, (-160, 240))
    write_patient(tmp_path / "a" / "few", chests[0], places[:4], (-1450, 50))
    write_patient(tmp_path / "a" / "mixed", chests[0], places, (-1000, 400))
    (tmp_path / "a" / "mixed" / "IM6.jpg").write_bytes(encoded(exported(chests[0].hu[18], (-160, 240)), 85))
    make_key(tmp_path / "key")
    done = pipeline.screen(tmp_path / "a", weights, tmp_path / "run", key_file=tmp_path / "key")
    assert done.by_reason == {"GREY_UNKNOWN": 1, "TOO_FEW_SLICES": 1}
    run = pipeline.open_run(tmp_path / "run")
    scored = run.studies[run.studies["status"].str.startswith("OK")]
    assert (scored["n_files"].tolist().count(5), scored["n_files"].tolist().count(6)) == (2, 1)
    assert scored[scored["n_files"] == 5]["probability"].nunique() == 1
    assert scored[scored["n_files"] == 6]["warnings"].str.contains("GREY_UNKNOWN").all()
    assert set(run.exclusions.query("stage == 'select'")["code"]) >= {"TOO_FEW_SLICES"}


@pytest.mark.long
def test_pictures_of_4096_pixels_are_read_smaller_and_those_below_128_are_none(chests, weights, tmp_path):
    write_patient(tmp_path / "a" / "P", chests[0], [8, 10, 12, 14, 16], (-1350, 150))
    large = exported(chests[0].hu[8], (-1350, 150), side=4096)
    (tmp_path / "a" / "P" / "IM1.jpg").write_bytes(encoded(large, 80))
    (tmp_path / "a" / "P" / "IM6.png").write_bytes(encoded(exported(chests[0].hu[12], (-1350, 150), side=120), 0))
    make_key(tmp_path / "key")
    done = pipeline.screen(tmp_path / "a", weights, tmp_path / "run", key_file=tmp_path / "key")
    assert done.by_status == {"OK_WITH_WARNINGS": 1}
    run = pipeline.open_run(tmp_path / "run")
    assert run.exclusions.query("scope == 'file'")[["code", "count"]].to_numpy().tolist() == [["PIXEL_FORMAT", 1]]
    assert run.results["details/box_original"][:].max() > 1024


def test_a_fill_with_more_seam_than_opencv_takes_in_a_line_is_sewn():
    lung = np.zeros((1400, 1400), np.uint8)
    lung[:, ::40] = lung[:, 1::40] = 1
    picture = np.random.default_rng(0).integers(60, 120, lung.shape).astype(np.uint8)
    filled = fill(picture, lung > 0, FillConfig(), np.random.default_rng(1))
    assert filled[lung > 0].tolist() == picture[lung > 0].tolist()
    assert filled.min() > 0


def test_half_a_window_or_one_upside_down_is_refused():
    for wrong in ({"picture_low_hu": -1000.0}, {"picture_low_hu": 0.0, "picture_high_hu": -1000.0}):
        with pytest.raises(ValueError, match="name both, the lower first, or neither"):
            Config(series=SeriesConfig(**wrong))
