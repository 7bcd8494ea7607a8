"""Inputs that are sound and were left out: axial reformats alone, private elements of kinds that are none."""

import struct

import numpy as np
import pytest

from pipeline.phantom.images import to_bytes
from tests.fabricate import N_SLICES, hu_of, images, indexed, left_out, phantom, verdict, write

UID_TAG = b"\x20\x00\x0d\x00"
"""The StudyInstanceUID, which stands behind the private groups."""


def of_type(*values, name="1"):
    data_sets = images(name)
    for data in data_sets:
        data.ImageType = list(values)
    return data_sets


@pytest.mark.parametrize("kind", ["MPR", "REFORMATTED"])
def test_axial_reformats_alone_are_read_with_a_warning_that_names_them(kind, tmp_path):
    write(tmp_path / "a", of_type("DERIVED", "SECONDARY", kind))
    assert verdict(tmp_path / "a") == ("", {"REFORMATTED"})


@pytest.mark.parametrize("kind", ["MIP", "MINIP", "PROJECTION IMAGE"])
def test_projections_are_refused_as_what_they_are(kind, tmp_path):
    write(tmp_path / "a", of_type("DERIVED", "SECONDARY", kind))
    assert verdict(tmp_path / "a")[0] == "REFORMATTED"


def test_a_coronal_reformat_is_not_axial(tmp_path):
    data_sets = of_type("DERIVED", "SECONDARY", "MPR")
    for data in data_sets:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "NOT_AXIAL"


@pytest.mark.parametrize("first", ["DERIVED", "ORIGINAL"])
def test_a_reformat_beside_the_original_series_loses(first, tmp_path):
    reformat, original = of_type(first, "PRIMARY", "MPR"), images("2")
    for one, other in zip(reformat, original, strict=True):
        one.StudyInstanceUID, one.PatientID, one.PatientName = other.StudyInstanceUID, other.PatientID, other.PatientName
        one.SliceThickness, other.SliceThickness = 2, 9
    write(tmp_path / "a" / "x", reformat)
    write(tmp_path / "a" / "y", original)
    _, (study,) = indexed(tmp_path / "a")
    assert study.candidates[0].series_uid == original[0].SeriesInstanceUID
    assert [event.code for event in study.events] == ["LOST_DERIVED"]


def test_reformats_among_the_slices_they_were_made_of_are_left_out(tmp_path):
    mixed = images()
    for data in mixed[:3]:
        data.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    write(tmp_path / "a", mixed)
    _, (study,) = indexed(tmp_path / "a")
    assert [(event.code, event.count) for event in study.candidates[0].events if event.code == "REFORMATTED"] == [
        ("REFORMATTED", 3)
    ]
    assert study.candidates[0].facts.n_slices == N_SLICES - 3


def private(kind, value, *, long=False, implicit=False):
    """A private element as odd writers put it."""
    tag = struct.pack("<HH", 0x0019, 0x1001)
    if implicit:
        return tag + struct.pack("<I", len(value)) + value
    return tag + kind + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


ODD = {
    "--": private(b"--", b"VALUE!"),
    "??": private(b"??", b"VALUE!"),
    "blanks": private(b"  ", b"VALUE!"),
    "zeros": private(b"\0\0", b"VALUE!"),
    "small letters": private(b"lo", b"VALUE!"),
    "empty": private(b"--", b""),
    "one that is to come": private(b"ZZ", b"V" * 70_000, long=True),
    "none, in implicit form": private(b"", b"V" * 300, implicit=True),
    "two of them": private(b"--", b"VALUE!") + struct.pack("<HH", 0x0019, 0x1002) + b"UN\0\0" + struct.pack("<I", 2) + b"ab",
}


@pytest.mark.parametrize("element", ODD.values(), ids=ODD)
def test_a_private_element_of_an_unknown_kind_is_passed_over(element, tmp_path):
    (tmp_path / "a").mkdir()
    for number, data in enumerate(images()):
        head, tail = to_bytes(data).getvalue().split(UID_TAG, 1)
        (tmp_path / "a" / f"{number}.dcm").write_bytes(head + element + UID_TAG + tail)
    manifest, (study,) = indexed(tmp_path / "a")
    assert left_out(manifest) == {}
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


DAMAGE = {
    "a length that leads nowhere": private(b"--", b"VALUE!")[:6] + b"\xff\x7f" + b"VALUE!",
    "a length that leads back": private(b"--", b"VALUE!")[:6] + b"\3\0" + b"VALUE!",
    "no element behind it": private(b"--", b"VALUE!") + b"\xff" * 20,
}


@pytest.mark.parametrize("element", DAMAGE.values(), ids=DAMAGE)
def test_an_unknown_kind_behind_which_nothing_makes_sense_is_a_corrupt_header(element, tmp_path):
    (tmp_path / "a").mkdir()
    head, tail = to_bytes(images()[0]).getvalue().split(UID_TAG, 1)
    (tmp_path / "a" / "x.dcm").write_bytes(head + element + UID_TAG + tail)
    manifest, studies = indexed(tmp_path / "a")
    assert (left_out(manifest), studies) == ({"HEADER_CORRUPT": 1}, [])
