"""Several acquisitions under one series UID are told apart or refused, never mixed; one acquisition is never torn apart."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace
from pydicom.uid import generate_uid

from pipeline.archive.found import FileRecord, Header, Traits
from pipeline.archive.selection import build_study
from pipeline.config import SeriesConfig
from pipeline.phantom.images import stored_of
from pipeline.records import Facts, SliceSource
from tests.fabricate import KEY, hu_of, images, indexed, write

CT = "1.2.840.10008.5.1.4.1.1.2"
CONFIG = SeriesConfig()
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def a_slice(z_mm, stack, order=0, **values):
    """A header; the file's path says of which stack the slice is."""
    sop_uid = values.pop("sop_uid", f"1.{stack}.{z_mm}")
    path = f"{order:06d}/{stack}"
    return Header(
        "1", "1.1", "\\P1", sop_uid=sop_uid, sop_class=CT, image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        position=(-170.0, -170.0, round(z_mm, 4)), orientation=values.pop("orientation", FLAT),
        spacing_mm=values.pop("spacing_mm", (0.7, 0.7)),
        traits=Traits(**{key: values.pop(key) for key in list(values) if key in Traits._fields}),
        source=SliceSource(path, 0.0, rows=values.pop("rows", 512), columns=512),
        facts=Facts("maker", "model", kvp=values.pop("kvp", 120.0), slice_thickness_mm=values.pop("thickness", 5.0)), **values,
    )  # fmt: skip


def stack_of(name, n=40, start_mm=0.0, step_mm=5.0, each=lambda _: {}, **values):
    """`n` slices of one acquisition; `each` gives what differs from slice to slice."""
    return [a_slice(start_mm + step_mm * k, name, **({"order": k} | values | each(k))) for k in range(n)]


def study_of(headers, config=CONFIG):
    return build_study("1", [FileRecord(headers=(header,)) for header in headers], config, KEY)


def told(study):
    """[(stacks of which a candidate has slices, how many)], events of the first one."""
    found = [({s.path.rpartition("/")[2] for s in series.slices}, len(series.slices)) for series in study.candidates]
    return found, {event.code: event.count for series in study.candidates[:1] for event in series.events}


def seconds(k, begin=43_200):
    """A time of day as DICOM writes it, a tenth of a second a slice."""
    second = begin + k // 10
    return f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}.{k % 10}00000"


PASSES = {  # what the headers of two passes say: (of the first, of the second), a dict or a function of the slice's number
    "acquisition number": ({"acquisition": "1"}, {"acquisition": "2"}),
    "temporal position": ({"moment": "1"}, {"moment": "2"}),
    "cardiac phase": ({"phase": "40"}, {"phase": "75"}),
    "phase in words": ({"phase": "END_SYSTOLE"}, {"phase": "END_DIASTOLE"}),
    "trigger time that trembles": (lambda k: {"trigger": f"{200 + k % 3}"}, lambda k: {"trigger": f"{600 + k % 3}"}),
    "energy": ({"kvp": 80.0}, {"kvp": 140.0}),
    "kernel": ({"kernel": "B30f"}, {"kernel": "B70f"}),
    "thickness": ({"thickness": 5.0}, {"thickness": 6.0}),
    "frame of reference": ({"frame": "a1"}, {"frame": "b2"}),
    "comments": ({"note": "a1"}, {"note": "b2"}),
    "one time each": ({"time": "120000"}, {"time": "120014.5"}),
    "a time a slice": (lambda k: {"time": seconds(k)}, lambda k: {"time": seconds(k, 43_300)}),
    "a time a slice, back and forth": (lambda k: {"time": seconds(k)}, lambda k: {"time": seconds(40 - k, 43_300)}),
    "instance numbers": (lambda k: {"number": str(k + 1)}, lambda k: {"number": str(k + 41)}),
}
OFFSETS = {"at the same places": 0.0, "half a step on": 2.5, "0.05 mm on": 0.05, "1.3 mm on": 1.3}


def passes(said, offset_mm):
    one, two = (said if callable(said) else lambda _, said=said: said for said in said)
    return [*stack_of("a", each=one), *stack_of("b", start_mm=offset_mm, each=two)]


@pytest.mark.parametrize("offset_mm", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("said", PASSES.values(), ids=PASSES)
def test_two_passes_are_two_stacks_whatever_header_tells_them_apart(said, offset_mm):
    found, events = told(study_of(passes(said, offset_mm)))
    assert sorted((sorted(names), n) for names, n in found) == [(["a"], 40), (["b"], 40)]
    assert events == {"MULTIPLE_STACKS": 2}


def test_where_no_header_tells_and_places_repeat_the_series_is_refused():
    study = study_of(passes(({}, {}), 0.0))
    assert (study.status, study.reason, study.candidates) == ("EXCLUDED", "MULTIPLE_STACKS", ())


@pytest.mark.parametrize("offset_mm", [0.05, 1.3, 2.0, 3.9])
def test_where_no_header_tells_two_regular_grids_are_two_stacks(offset_mm):
    found, events = told(study_of(passes(({}, {}), offset_mm)))
    assert sorted((sorted(names), n) for names, n in found) == [(["a"], 40), (["b"], 40)]
    assert events == {"MULTIPLE_STACKS": 2}


def test_three_grids_with_slices_missing_stay_apart():
    headers = [h for n in range(3) for h in stack_of("abc"[n], start_mm=n * 1.2)]
    rng = np.random.default_rng(3)
    kept = [headers[i] for i in rng.permutation(len(headers))[:-5]]
    assert all(len(names) == 1 for names, _ in told(study_of(kept))[0])


def test_phases_of_two_kernels_are_four_stacks():
    headers = [
        h for phase in "12" for kernel in ("B30f", "B70f") for h in stack_of(phase + kernel, moment=phase, kernel=kernel)
    ]
    found, events = told(study_of(headers))
    assert all(len(names) == 1 and n == 40 for names, n in found)
    assert (len(found), events) == (4, {"MULTIPLE_STACKS": 4})


def test_ten_phases_of_which_each_slice_has_its_own_time_are_told_apart_by_the_phase():
    headers = []
    for phase in range(10):
        headers += stack_of(str(phase), each=lambda k, phase=phase: {"time": seconds(10 * k + phase), "phase": f"{10 * phase}"})
    found, _ = told(study_of(headers))
    assert len(found) == 10
    assert all(len(names) == 1 and n == 40 for names, n in found)


def test_ten_phases_at_places_of_their_own_are_ten_stacks():
    headers = [h for n in range(10) for h in stack_of(str(n), start_mm=0.4 * n, moment=str(n))]
    found, _ = told(study_of(headers))
    assert sorted((sorted(names), n) for names, n in found) == [([str(n)], 40) for n in range(10)]


def test_passes_too_short_to_be_stacks_are_refused_not_joined():
    headers = [h for n in range(6) for h in stack_of(str(n), n=6, start_mm=4.0 * n, step_mm=24.0, acquisition=str(n))]
    assert study_of(headers).reason == "MULTIPLE_STACKS"


def test_a_cine_with_nothing_but_times_is_refused():
    headers = [h for n in range(10) for h in stack_of(str(n), each=lambda k, n=n: {"time": seconds(10 * k + n)})]
    assert study_of(headers).reason == "MULTIPLE_STACKS"


ONE = {  # what is one acquisition, whatever its headers look like
    "plain": stack_of("a"),
    "a time a slice": stack_of("a", each=lambda k: {"time": seconds(k), "number": str(k)}),
    "a time a slice, downwards": stack_of("a", each=lambda k: {"time": seconds(99 - k)}),
    "times through midnight": stack_of("a", each=lambda k: {"time": seconds(k, 86_398 if k < 20 else 0)}),
    "an acquisition a rotation": stack_of("a", each=lambda k: {"acquisition": str(k // 4), "time": seconds(10 * (k // 4))}),
    "two stations": stack_of("a", each=lambda k: {"acquisition": "1" if k < 17 else "2"}),
    "two stations and one wrong slice": stack_of("a", each=lambda k: {"acquisition": "1" if k < 17 or k == 33 else "2"}),
    "numbers in no order": stack_of("a", each=lambda k: {"number": str(k * 17 % 40)}),
    "times in no order": stack_of("a", each=lambda k: {"time": seconds(k * 17 % 40)}),
    "one number out of order": stack_of("a", each=lambda k: {"number": str(20.5 if k == 39 else k)}),
    "no number for some": stack_of("a", each=lambda k: {"number": str(k) if k % 3 else ""}),
    "a frame of reference a slice": stack_of("a", each=lambda k: {"frame": f"{k * 7919 % 10007:x}"}),
    "a comment a slice": stack_of("a", each=lambda k: {"note": f"{k * 7919 % 10007:x}"}),
    "thickness that trembles": stack_of("a", each=lambda k: {"thickness": 5.0 if k % 2 else 5.00001}),
    "energy that trembles": stack_of("a", each=lambda k: {"kvp": 120.0 if k % 2 else 120.1}),
    "times of two spellings": stack_of("a", each=lambda k: {"time": "120000" if k % 2 else "120000.00"}),
    "numbers of two spellings": stack_of("a", each=lambda k: {"acquisition": "1" if k % 2 else "01"}),
    "a phase that trembles": stack_of("a", each=lambda k: {"phase": "40" if k % 2 else "40.1", "trigger": f"{300 + k % 3}"}),
    "values that a few slices lack": stack_of(
        "a", each=lambda k: {"acquisition": "" if k in (3, 20, 33) else "1", "kvp": None if k in (5, 17, 29) else 120.0}
    ),
    "a slice of another image type": stack_of("a", each=lambda k: {"contrast": k == 20}),
    "two of every four slices, a rotation each": [
        a_slice(10.0 * (k // 2) + 1.25 * (k % 2), "a", k, time=seconds(10 * (k // 2))) for k in range(40)
    ],
    "thicker steps above": [a_slice(5.0 * k if k < 20 else 100 + 8.0 * (k - 20), "a", k) for k in range(40)],
    "uneven steps": [a_slice(5.0 * k + (0.9 if k in (3, 4, 9, 17, 23, 24, 31) else 0), "a", k) for k in range(40)],
    "steps rounded to a tenth": [a_slice(round(0.625 * k, 1), "a", k) for k in range(400)],
}  # fmt: skip


@pytest.mark.parametrize("headers", ONE.values(), ids=ONE)
def test_one_acquisition_stays_whole(headers):
    rng = np.random.default_rng(5)
    found, events = told(study_of([headers[i] for i in rng.permutation(len(headers))]))
    assert found == [({"a"}, len(headers))]
    assert set(events) <= {"SLICE_GAP"}


def test_values_that_are_no_numbers_are_compared_as_they_stand():
    odd, traits = ("nan", "1e999", "-inf", "1e300"), ("time", "number", "trigger")
    one = study_of(stack_of("a", n=80, each=lambda k: dict.fromkeys(traits, odd[k // 20])))
    two = study_of(stack_of("a", n=80, each=lambda k: dict.fromkeys(traits, odd[k % 2])))
    assert [len(series.slices) for series in one.candidates] == [80]
    assert [len(series.slices) for series in two.candidates] == [40, 40]


def test_slices_missing_from_one_acquisition_split_nothing():
    headers = stack_of("a", n=60, each=lambda k: {"time": seconds(k), "number": str(k)})
    found, _ = told(study_of([header for k, header in enumerate(headers) if k % 7 != 3]))
    assert [n for _, n in found] == [51]


def test_two_stations_that_share_a_place_take_its_slice_from_the_longer_one():
    headers = [
        *stack_of("a", n=15, acquisition="1"), *stack_of("b", n=26, start_mm=70.0, acquisition="2")
    ]  # fmt: skip
    study = study_of(headers)
    names = [source.path.rpartition("/")[2] for source in study.candidates[0].slices]
    assert names == ["a"] * 14 + ["b"] * 26
    assert told(study)[1] == {"DUPLICATE_SLICES": 1}


def test_every_file_twice_is_one_acquisition_and_said():
    found, events = told(study_of([*stack_of("a"), *stack_of("a", each=lambda k: {"order": 100 + k})]))
    assert (found, events) == ([({"a"}, 40)], {"DUPLICATE_SLICES": 40})


def test_every_frame_of_an_object_twice_is_one_acquisition():
    frames = [replace(h, sop_uid="1.7", source=replace(h.source, path="0/a", frame=k)) for k, h in enumerate(stack_of("a"))]
    found, events = told(study_of([*frames, *(replace(h, source=replace(h.source, path="z/a")) for h in frames)]))
    assert (found, events) == ([({"a"}, 40)], {"DUPLICATE_SLICES": 40})


def test_copies_are_no_evidence_where_all_slices_share_one_uid():
    headers = [*stack_of("a", sop_uid="1.7"), *stack_of("b", sop_uid="1.7")]
    assert study_of(headers).reason == "MULTIPLE_STACKS"


# ---- geometry ----


def trembling(low, high):
    return stack_of("a", each=lambda k: {"spacing_mm": (low, low) if k % 2 else (high, high)})


def turned(*cosines):
    return stack_of("a", each=lambda k: {"orientation": cosines[k % len(cosines)]})


def rotated(e):
    c = float(np.sqrt(1 - e * e))
    return (c, e, 0.0, -e, c, 0.0)


ALIKE = {
    "spacing 1.78125 and 1.7812501": trembling(1.78125, 1.7812501),
    "spacing 0.70305 and 0.70315": trembling(0.70305, 0.70315),
    "cosines 0.00499 and 0.00501": turned(rotated(0.00499), rotated(0.00501)),
    "cosines around 0.005 and 0.015": turned(rotated(0.0049), rotated(0.0051), rotated(0.0149)),
    "cosines 0.98 and -0.17": turned((0.98, -0.17, 0.0, 0.17, 0.98, 0.0)),
    "cosines of two digits": turned((0.98, -0.17, 0.05, 0.17, 0.98, -0.03)),
}


@pytest.mark.parametrize("headers", ALIKE.values(), ids=ALIKE)
def test_geometry_is_compared_with_tolerances_not_after_rounding(headers):
    study = study_of(headers)
    found, events = told(study)
    assert found == [({"a"}, 40)]
    assert set(events) <= {"GANTRY_TILT"}


def test_nearly_unit_cosines_do_not_shrink_the_body():
    study = study_of(turned((0.98, -0.17, 0.0, 0.17, 0.98, 0.0)))
    assert study.candidates[0].facts.spacing_between_mm == 5.0


OTHERS = {
    "spacing": ({"spacing_mm": (0.8, 0.8)}, "MIXED_GEOMETRY"),
    "rows": ({"rows": 511}, "MIXED_GEOMETRY"),
    "orientation": ({"orientation": rotated(0.1)}, "MIXED_ORIENTATION"),
}


@pytest.mark.parametrize(("other", "reason"), OTHERS.values(), ids=OTHERS)
def test_a_few_slices_of_another_geometry_are_dropped_and_counted_many_are_the_reason(other, reason):
    few = stack_of("a", each=lambda k: other if k < 2 else {})
    many = stack_of("a", each=lambda k: other if k < 12 else {})
    assert told(study_of(few)) == ([({"a"}, 38)], {reason: 2})
    assert (study_of(many).status, study_of(many).reason) == ("EXCLUDED", reason)


def test_values_that_differ_from_slice_to_slice_excuse_no_other_geometry():
    half = stack_of("a", each=lambda k: {"note": f"{k:x}", "spacing_mm": (0.8, 0.8) if k < 20 else (0.7, 0.7)})
    assert study_of(half).reason == "MIXED_GEOMETRY"


def test_another_geometry_that_other_headers_too_call_another_acquisition_is_a_stack():
    chest = stack_of("a", acquisition="1")
    abdomen = stack_of("b", start_mm=-150.0, n=30, acquisition="2", spacing_mm=(0.9, 0.9))
    found, events = told(study_of([*chest, *abdomen]))
    assert found == [({"a"}, 40), ({"b"}, 30)]
    assert events == {"MULTIPLE_STACKS": 2}


def test_two_fields_of_view_of_one_acquisition_are_two_stacks():
    found, _ = told(study_of([*stack_of("a"), *stack_of("b", spacing_mm=(0.5, 0.5))]))
    assert sorted((sorted(names), n) for names, n in found) == [(["a"], 40), (["b"], 40)]


# ---- at random ----


@dataclass
class Made:
    """A random series and the slices that each of its stacks has."""

    headers: list[Header] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def made_at_random(rng):
    """One to four passes at the same or other places, told apart by some headers; copies, tremors, any order of files."""
    n_passes, n = int(rng.integers(1, 5)), int(rng.integers(30, 80))
    step = float(rng.choice([1.0, 2.5, 5.0]))
    offset = float(rng.choice([0, 0, 0.25, 0.5])) / n_passes * 2 * step
    telling = rng.choice(["acquisition", "moment", "phase", "kernel", "trigger", "time", "times", "number"], size=2)
    made = Made()
    for name in "abcd"[:n_passes]:
        place = ord(name) - ord("a")
        for k in range(n):
            values = {what: f"{100 * (place + 1)}" for what in telling if what in Traits._fields and what != "number"}
            if "times" in telling:
                values["time"] = seconds(k, 40_000 + 100 * place)
            if "number" in telling:
                values["number"] = str(k + 1 + n * place)
            tremor = float(rng.normal(0, 1e-6))
            header = a_slice(
                step * k + offset * place,
                name,
                k,
                spacing_mm=(0.7 + tremor, 0.7),
                orientation=rotated(tremor),
                thickness=step,
                **values,
            )
            made.headers.append(header)
            if rng.random() < 0.02:
                made.headers.append(replace(header, source=replace(header.source, path="z/" + header.source.path)))
        made.sizes[name] = n
    made.headers = [made.headers[i] for i in rng.permutation(len(made.headers))]
    return made  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_whatever_acquisitions_a_series_holds_each_candidate_is_one_of_them_and_whole(seed):
    rng = np.random.default_rng(1000 + seed)
    config = SeriesConfig(min_extent_mm=20.0)
    for _ in range(10):
        made = made_at_random(rng)
        found, _ = told(study_of(made.headers, config))
        assert sorted((sorted(names), n) for names, n in found) == [([name], n) for name, n in sorted(made.sizes.items())]


def one_at_random(rng):
    """One acquisition as scanners and archives leave it: any order of times and numbers that one pass has, gaps, tremors."""
    n, step = int(rng.integers(40, 150)), float(rng.choice([0.5, 0.625, 1.0, 2.5, 5.0]))
    rows, stations = int(rng.choice([1, 2, 4, 16])), int(rng.integers(1, 4))
    upwards, times, numbers = (
        rng.random() < 0.5,
        rng.choice(["none", "one", "rotation", "slice"]),
        rng.choice(["up", "any", "none"]),
    )
    shuffled, missing = rng.permutation(n), set(rng.permutation(n)[: int(rng.integers(0, n // 12))].tolist())
    headers = []
    for k in (k for k in range(n) if k not in missing):
        turn = (k if upwards else n - 1 - k) // (rows if times == "rotation" else 1)
        values = {"time": {"none": "", "one": "120000", "rotation": seconds(5 * turn), "slice": seconds(turn)}[times]}
        values["number"] = {"up": str(k + 1), "any": str(shuffled[k]), "none": ""}[numbers]
        values["acquisition"] = str(k * stations // n) if rng.random() < 0.99 else ""
        tremor = float(rng.normal(0, 1e-4))
        values |= {"spacing_mm": (0.7 + tremor / 10, 0.7), "orientation": rotated(tremor), "kvp": 120 + tremor}
        headers.append(a_slice(round(step * k + tremor, 3), "a", k, thickness=step, **values))
    return [headers[i] for i in rng.permutation(len(headers))]


@pytest.mark.parametrize("seed", range(12))
def test_one_acquisition_stays_whole_however_its_headers_vary(seed):
    rng = np.random.default_rng(2000 + seed)
    config = SeriesConfig(min_extent_mm=10.0)
    for _ in range(10):
        headers = one_at_random(rng)
        found, events = told(study_of(headers, config))
        assert found == [({"a"}, len(headers))]
        assert set(events) <= {"SLICE_GAP"}


WRITTEN_ALIKE = {
    "spacing": [{"PixelSpacing": ["1.78125", "1.78125"]}, {"PixelSpacing": ["1.7812501", "1.7812501"]}],
    "cosines": [
        {"ImageOrientationPatient": [f"{c:.10f}" for c in rotated(0.00499)]},
        {"ImageOrientationPatient": [f"{c:.10f}" for c in rotated(0.00501)]},
    ],
}


@pytest.mark.parametrize("kinds", WRITTEN_ALIKE.values(), ids=WRITTEN_ALIKE)
def test_a_series_of_two_exporters_is_one(kinds, tmp_path):
    data_sets = images()
    for place, data in enumerate(data_sets):
        for keyword, value in kinds[place % 2].items():
            setattr(data, keyword, value)
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert [len(series.slices) for series in study.candidates] == [24]
    assert study.candidates[0].events == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_files_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    made = made_at_random(rng)
    first = study_of(made.headers)
    names = {header.source.path: f"{i:06d}/{header.source.path}" for i, header in enumerate(made.headers)}
    again = study_of([replace(h, source=replace(h.source, path=names[h.source.path])) for h in made.headers])
    assert [series.series_uid for series in again.candidates] == [series.series_uid for series in first.candidates]
    assert told(again)[0] == told(first)[0]


# ---- pixels, from files ----


def stamped(said, hu, shift_mm=0.0):
    """A series of files whose corner says `hu`."""
    data_sets = images(n_slices=30)
    for data in data_sets:
        stored = stored_of(data).copy()
        stored[:2, :2] = hu - int(data.RescaleIntercept)
        data.PixelData = stored.tobytes()
        data.SOPInstanceUID = generate_uid(entropy_srcs=[data.SOPInstanceUID, str(hu)])
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, float(z) + shift_mm]
        for keyword, value in said.items():
            setattr(data, keyword, value)
    return data_sets


WRITTEN = {
    "two acquisitions, positions interleaved": (({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}), 4.0),
    "phases of the heart": (
        (
            {"AcquisitionTime": "120000", "TriggerTime": "0", "NominalPercentageOfCardiacPhase": 0.0},
            {"AcquisitionTime": "120001", "TriggerTime": "400", "NominalPercentageOfCardiacPhase": 50.0},
        ),
        0.0,
    ),
    "a respiratory phase alone": (
        ({"NominalPercentageOfRespiratoryPhase": 10.0}, {"NominalPercentageOfRespiratoryPhase": 60.0}),
        0.0,
    ),
    "descriptions": (({"SeriesDescription": "T=10%"}, {"SeriesDescription": "T=60%"}), 0.0),
    "comments": (({"ImageComments": "in"}, {"ImageComments": "out"}), 0.0),
    "two energies": (({"KVP": "80"}, {"KVP": "140"}), 0.0),
    "two frames of reference": (({"FrameOfReferenceUID": "1.2.3"}, {"FrameOfReferenceUID": "1.2.4"}), 0.05),
}


@pytest.mark.parametrize(("said", "shift_mm"), WRITTEN.values(), ids=WRITTEN)
def test_every_pixel_of_a_candidate_is_of_one_acquisition(said, shift_mm, tmp_path):
    mixed = [data for pair in zip(stamped(said[0], 100), stamped(said[1], 200, shift_mm), strict=True) for data in pair]
    write(tmp_path / "a", mixed)
    _, (study,) = indexed(tmp_path / "a")
    assert len(study.candidates) == 2
    corners = [set(hu_of(tmp_path / "a", study, place)[:, 0, 0].tolist()) for place in (0, 1)]
    assert sorted(corners, key=min) == [{100}, {200}]
    assert {event.code for event in study.candidates[0].events} == {"MULTIPLE_STACKS"}
