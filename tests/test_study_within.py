"""Of a series that goes far beyond the chest the places are chosen again within the lung, whatever it is stored as."""

from collections import Counter
from dataclasses import replace

import cv2
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archive import every_slice
from pipeline.archive.packed import pack, unpack
from pipeline.config import Config, SeriesConfig, SliceConfig
from pipeline.errors import Reason, StudyError
from pipeline.phantom import torso
from pipeline.phantom.images import series
from pipeline.records import Event, SliceSource, Volume
from pipeline.study import within
from pipeline.study.screener import Preparer
from pipeline.study.slices import choose_slices
from pipeline.study.within import EXTENT_SHARE, Look, has_few, look_again, lung_run
from tests.fabricate import indexed, write
from tests.test_archive_property import SAME_EVERY_TIME

PIXEL_MM2 = 100.0
OVER_SERIES = Config(slices=SliceConfig(within="series"))
CONFIG = SliceConfig()

# ---- choosing, on bodies that are only areas ----


class Body:
    """Slices at `z_mm`, of which a row of pixels is lung: as many as `area_mm2` says."""

    def __init__(self, z_mm, area_mm2, doubted=()):
        self.z_mm, self.area_mm2, self.doubted = list(z_mm), np.asarray(area_mm2, float), set(doubted)

    def look(self, places):
        lit = np.arange(500) < np.rint(self.area_mm2[places] / PIXEL_MM2)[:, None]
        volume = Volume(
            np.zeros((len(places), 1, 1), np.int16),
            np.array(self.z_mm)[places],
            np.array(places, np.int32),
            (10.0, 10.0),
            n_series=len(self.z_mm),
        )
        return Look(volume, lit[:, None, :], np.array([place in self.doubted for place in places]))

    def first(self):
        return self.look(choose_slices(self.z_mm, CONFIG))

    def again(self):
        return look_again(self.first(), self.z_mm, self.look, CONFIG)


def lung(z_mm, low, high, largest_mm2=30_000.0):
    """Areas of a lung from `low` to `high`: a dome on a broad base."""
    share = (np.asarray(z_mm) - low) / (high - low)
    return np.where((share >= 0) & (share <= 1), largest_mm2 * np.clip(4 * share, 0, 1) * np.clip(3 * (1 - share), 0, 1), 0.0)


@st.composite
def bodies(draw):
    """(body, z of its lung's ends): a lung of 150 to 300 mm within 700 to 1900 mm, slices 0.6 to 12 mm apart, evenly or not."""
    length = draw(st.floats(700, 1900, allow_subnormal=False))
    step = draw(st.floats(0.6, 12.0, allow_subnormal=False))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    steps = np.full(int(length / step), step) * (rng.uniform(0.5, 1.5, int(length / step)) if draw(st.booleans()) else 1.0)
    z_mm = draw(st.floats(-2000, 500, allow_subnormal=False)) + np.concatenate([[0.0], np.cumsum(steps)])
    high = draw(st.floats(150, 300, allow_subnormal=False))
    low = draw(st.floats(0, 1, allow_subnormal=False)) * (z_mm[-1] - z_mm[0] - high) + z_mm[0]
    return Body(z_mm, lung(z_mm, low, low + high)), (low, low + high)


@settings(**SAME_EVERY_TIME, max_examples=60)
@given(bodies())
def test_places_chosen_again_divide_the_lung_as_those_of_a_series_of_the_chest(drawn):
    body, (low_mm, high_mm) = drawn
    first, again = body.first(), body.again()
    if again is None:  # so long a series that the lung is the rim of it
        assert lung_run(first.areas_mm2, first.doubts) is None or first.areas_mm2[[0, -1]].any()
        return
    places = np.array(again.places)
    assert (np.diff(places) > 0).all()
    assert len(places) == len(set(places)) <= CONFIG.count
    assert low_mm <= body.z_mm[places[0]] <= body.z_mm[places[-1]] <= high_mm
    on = np.flatnonzero(body.area_mm2 >= EXTENT_SHARE * body.area_mm2.max())
    crop = np.array(choose_slices(body.z_mm[on[0] : on[-1] + 1], CONFIG)) + on[0]
    widest = float(np.diff(body.z_mm).max())
    off_mm = (body.z_mm[-1] - body.z_mm[0]) / CONFIG.count**2 + 2 * widest + 0.02 * (high_mm - low_mm)
    nearest = [np.abs(np.array(body.z_mm)[crop] - body.z_mm[place]).min() for place in places]
    assert max(nearest) <= off_mm
    assert len(places) >= min(0.75 * CONFIG.count, 0.75 * len(on))


@settings(**SAME_EVERY_TIME, max_examples=40)
@given(bodies(), st.floats(0.05, 0.9, allow_subnormal=False), st.booleans())
def test_of_two_runs_of_lung_the_one_with_more_is_divided(drawn, share, above):
    body, (low_mm, high_mm) = drawn
    z_mm = np.array(body.z_mm)
    start = high_mm + 200 if above else low_mm - 200 - 90
    other = lung(z_mm, start, start + 90, 30_000.0 * share)
    again = Body(z_mm, body.area_mm2 + other).again()
    if again is not None and not body.first().areas_mm2[[0, -1]].any():
        assert (body.area_mm2[again.places] > 0).all()


def test_a_lung_at_the_series_end_is_divided_and_said_to_be_cut_off():
    z_mm = np.arange(300) * 4.0
    again = Body(z_mm, np.where(z_mm >= 950, 20_000.0, 0.0)).again()
    assert min(again.places) >= 950 / 4
    assert max(again.places) >= 293
    codes = [event.code for event in again.volume.events]
    assert codes == [Reason.LUNG_PLACES, Reason.LUNG_TRUNCATED]


@pytest.mark.parametrize("at_top", [False, True])
def test_the_rim_of_a_lung_in_an_abdomen_or_a_neck_stays_none(at_top):
    z_mm = np.arange(150) * 3.0
    rim = z_mm >= 380 if at_top else z_mm < 70
    assert Body(z_mm, np.where(rim, 25_000.0, 0.0)).again() is None


def test_implausible_slices_neither_end_a_run_nor_tear_it():
    areas = np.array([0, 9, 10, 10, 10, 9, 0, 0]) * 1000.0
    assert lung_run(areas, np.zeros(8, bool)) == (1, 5)
    assert lung_run(areas, np.isin(np.arange(8), [1, 3])) == (2, 5)
    assert lung_run(areas, np.ones(8, bool)) is None


def test_slices_that_are_all_doubted_are_looked_at_again_all_the_same():
    z_mm = np.arange(300) * 4.0
    first = {100, 140, 160, 180}
    body = Body(z_mm, lung(z_mm, 500, 760), doubted=first | set(choose_slices(z_mm, CONFIG)))
    assert has_few(body.first(), CONFIG)
    assert len(body.again().places) >= 12


def test_a_series_of_the_chest_is_left_as_it_is():
    z_mm = np.arange(120) * 3.0
    assert not has_few(Body(z_mm, lung(z_mm, 40, 310)).first(), CONFIG)
    assert not has_few(Body(z_mm, np.zeros(120)).first(), CONFIG)


# ---- all slices in few bytes ----

FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
SOURCES = st.builds(
    SliceSource, path=st.text(max_size=20), z_mm=FLOATS, offset=st.integers(0, 2**62), length=st.integers(0, 2**62),
    member=st.text(max_size=9), slope=FLOATS, padding=st.none() | st.integers(-(2**15), 2**16), signed=st.booleans(),
    mtime_ns=st.integers(-(2**62), 2**62), place=st.integers(0, 2000), check=st.text(max_size=20),
)  # fmt: skip


@settings(**SAME_EVERY_TIME, max_examples=40)
@given(st.lists(SOURCES, min_size=1, max_size=12))
def test_slices_are_unpacked_as_they_were_packed(slices):
    again = unpack(pack(slices))
    assert list(again) == slices
    assert [repr(one.z_mm) for one in again] == [repr(one.z_mm) for one in slices]


def test_three_hundred_slices_take_few_bytes():
    slices = [
        SliceSource(f"CT/1/IM{n:04d}", -80.0 + 1.25 * n, 1204, 2**19, size=525_492, mtime_ns=n * 9_000_000, place=n)
        for n in range(300)
    ]
    assert len(pack(slices)) < 300 * 6


# ---- from files ----


@pytest.fixture(scope="module")
def phantom():
    return replace(torso(3, "covid", (420.0, 240.0), matrix=128, slices=120), vendor=3)  # vendor 3 marks and cuts off nothing


@pytest.fixture(scope="module")
def archive(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torso") / "archive"
    write(folder, series(phantom, "1"))
    return folder


def prepared(archive, config=Config(), change=lambda study: study):  # noqa: B008  frozen
    """The slices of the only study as networks see them."""
    _, (study,) = indexed(archive, config)
    with Preparer(archive, config) as preparer:
        return preparer.best(change(study)).prepared


def codes(found):
    return {event.code for event in found.events}


def test_a_series_from_head_to_pelvis_keeps_twelve_slices_instead_of_two(archive, phantom):
    before, after = prepared(archive, OVER_SERIES), prepared(archive)
    assert len(before.slice_index) <= 4
    assert Reason.LUNG_PLACES not in codes(before)
    assert len(after.slice_index) >= 12
    assert codes(after) == {Reason.LUNG_PLACES}
    assert np.allclose(after.z_mm, phantom.z_mm[after.slice_index])


def test_the_chest_cut_out_of_it_gives_nearly_the_same_slices(archive, phantom, tmp_path):
    areas = phantom.lung.sum(axis=(1, 2))
    on = np.flatnonzero(areas > EXTENT_SHARE * areas.max())
    cut = slice(on[0], on[-1] + 1)
    parts = {name: getattr(phantom, name)[cut] for name in ("hu", "lung", "lesion", "effusion", "z_mm")}
    write(tmp_path / "a", series(replace(phantom, **parts), "1"))
    alone = prepared(tmp_path / "a", Config(series=SeriesConfig(min_slices=5, min_extent_mm=50.0)))
    whole = prepared(archive)
    step_mm = float(np.diff(phantom.z_mm).max())
    assert abs(len(alone.z_mm) - len(whole.z_mm)) <= 1
    assert max(np.abs(whole.z_mm - z).min() for z in alone.z_mm) <= step_mm


def test_no_slice_is_read_twice(archive, monkeypatch):
    read, count = within.read_volume, Counter()

    def counting(root, series, wanted, decoder, *like):
        count.update(series.slices[place].place for place in wanted)
        return read(root, series, wanted, decoder, *like)

    monkeypatch.setattr(within, "read_volume", counting)
    prepared(archive)
    assert len(count) > 15
    assert set(count.values()) == {1}


def test_a_manifest_of_an_older_version_goes_on_as_it_was(archive):
    def older(study):
        return replace(study, candidates=tuple(replace(one, packed=b"") for one in study.candidates))

    assert np.array_equal(prepared(archive, change=older).images, prepared(archive, OVER_SERIES).images)


def test_the_manifest_holds_every_slice_and_one_of_few_slices_nothing_more(archive, tmp_path, phantom):
    _, (study,) = indexed(archive, Config())
    series_ = study.candidates[0]
    assert [one.place for one in every_slice(series_)] == list(range(120))
    assert set(series_.slices) <= set(every_slice(series_))
    everything = Config(slices=SliceConfig(count=1000))
    assert indexed(archive, everything)[1][0].candidates[0].packed == b""


def test_a_volume_gives_the_same_slices_as_the_series(archive, phantom, tmp_path):
    step_mm = float(np.median(np.diff(phantom.z_mm)))
    affine = np.diag([-phantom.spacing_mm[1], -phantom.spacing_mm[0], step_mm, 1.0])
    affine[2, 3] = phantom.z_mm[0]
    (tmp_path / "a").mkdir()
    nibabel.save(nibabel.Nifti1Image(phantom.hu.transpose(2, 1, 0), affine), tmp_path / "a" / "ct.nii.gz")
    volume, images = prepared(tmp_path / "a"), prepared(archive)
    assert Reason.LUNG_PLACES in codes(volume)
    assert volume.slice_index.tolist() == images.slice_index.tolist()


@pytest.mark.parametrize("from_head", [False, True])
def test_exported_pictures_are_chosen_again_whichever_way_they_run(from_head, phantom, tmp_path):
    folder = tmp_path / "a" / "patient"
    folder.mkdir(parents=True)
    pictures = np.clip((phantom.hu.astype(float) + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
    for number, picture in enumerate(pictures[::-1] if from_head else pictures):
        cv2.imwrite(str(folder / f"{number:03d}.png"), cv2.resize(picture, (256, 256)))
    window = Config(series=SeriesConfig(picture_low_hu=-1350.0, picture_high_hu=150.0))
    found = prepared(tmp_path / "a", window)
    lungs = phantom.lung.sum(axis=(1, 2))
    assert Reason.LUNG_PLACES in codes(found)
    assert len(found.slice_index) >= 12
    assert (lungs[found.slice_index] > 0.2 * lungs.max()).all()
    assert (np.diff(found.z_mm) > 0).all()


def test_a_slice_that_cannot_be_read_is_the_studys_reason_there_too(archive, monkeypatch):
    read = within.read_volume

    def failing(root, series, wanted, decoder, *like):
        if like:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return read(root, series, wanted, decoder)

    monkeypatch.setattr(within, "read_volume", failing)
    with pytest.raises(StudyError) as refused:
        prepared(archive)
    assert refused.value.reason == Reason.DECODE_ERROR


def test_what_was_met_while_reading_is_counted_over_all_looks():
    def volume(place, count):
        found = (Event("series", "volume", Reason.HU_CLIPPED, count),)
        return Volume(np.zeros((1, 2, 2), np.int16), np.zeros(1), np.array([place], np.int32), (1.0, 1.0), events=found)

    joined = within._joined([volume(3, 2), volume(5, 1)], [5, 3])
    assert joined.slice_index.tolist() == [3, 5]
    assert [event.count for event in joined.events] == [3]
