"""Of several series the right one is chosen, by one criterion after the other, and each loser says why it lost."""

import numpy as np
import pytest

from pipeline.archive.ranking import is_sharp
from pipeline.config import Config, SeriesConfig
from pipeline.phantom.clutter import coronal, dose_report, dose_screen, localizers, second_kernel, thick
from tests.fabricate import images, indexed, phantom, write


def changed(kind, **values):
    data_sets = images(kind=kind, n_slices=40)
    for data in data_sets:
        for keyword, value in values.items():
            setattr(data, keyword, value)
    return data_sets


def shorter(data_sets, n):
    return sorted(data_sets, key=lambda data: float(data.ImagePositionPatient[2]))[:n]


def uneven(data_sets):
    for data in data_sets:
        z = float(data.ImagePositionPatient[2])
        data.ImagePositionPatient = [0, 0, z + (1.0 if round(z / 8) in (3, 4, 9, 17, 18, 19, 30, 33) else 0.0)]
    return data_sets


LOSERS = {
    "LOST_DERIVED": lambda: changed("b", ImageType=["DERIVED", "PRIMARY", "AXIAL"]),
    "LOST_EXTENT": lambda: shorter(changed("b"), 22),
    "LOST_THICKNESS": lambda: changed("b", SliceThickness=4),
    "LOST_KERNEL": lambda: changed("b", ConvolutionKernel="B30f"),
    "LOST_SPACING": lambda: uneven(changed("b")),
    "LOST_CONTRAST": lambda: changed("b", ContrastBolusAgent="agent"),
    "LOST_SLICES": lambda: shorter(changed("b"), 35),
}


@pytest.mark.parametrize(("reason", "make"), LOSERS.items(), ids=LOSERS)
def test_each_criterion_decides_where_all_before_it_are_even(reason, make, tmp_path):
    write(tmp_path / "a" / "best", changed("a", SliceThickness=2))
    loser = make()
    for data in loser:
        if reason != "LOST_THICKNESS":
            data.SliceThickness = 2
    write(tmp_path / "a" / "other", loser)
    _, (study,) = indexed(tmp_path / "a")
    best, other = study.candidates
    assert best.series_uid == changed("a")[0].SeriesInstanceUID
    assert best.score > other.score
    assert [(event.code, event.count) for event in study.events] == [(reason, 1)]


def test_a_tie_goes_to_the_smallest_series_uid(tmp_path):
    write(tmp_path / "a" / "x", changed("a"))
    write(tmp_path / "a" / "y", changed("b"))
    _, (study,) = indexed(tmp_path / "a")
    first, second = study.candidates
    assert first.series_uid < second.series_uid
    assert first.score == second.score
    assert [event.code for event in study.events] == ["LOST_UID"]


def test_an_earlier_criterion_outweighs_all_later_ones_together(tmp_path):
    soft_thick_short = changed("a", SliceThickness=5, ConvolutionKernel="B30f", ContrastBolusAgent="agent")
    derived = changed("b", SliceThickness=1, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    write(tmp_path / "a" / "x", soft_thick_short)
    write(tmp_path / "a" / "y", derived)
    _, (study,) = indexed(tmp_path / "a")
    assert study.candidates[0].series_uid == soft_thick_short[0].SeriesInstanceUID


def test_in_a_cluttered_study_the_sharp_thin_axial_series_is_chosen_and_every_loser_says_why(tmp_path):
    chest = phantom(n_slices=42)
    parts = {
        "loc": localizers(chest, "1"),
        "kernel": second_kernel(chest, "1"),
        "thick": thick(chest, "1"),
        "coronal": coronal(chest, "1"),
        "dose": [dose_screen(chest, "1"), dose_report(chest, "1")],
        "ct": images("1", n_slices=42),
    }
    for name, data_sets in parts.items():
        write(tmp_path / "a" / name, data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert study.candidates[0].series_uid == parts["ct"][0].SeriesInstanceUID
    assert study.n_files == sum(map(len, parts.values()))
    assert {(event.code, event.count) for event in study.events} == {
        ("LOCALIZER_ONLY", 2),
        ("NOT_AXIAL", 8),
        ("NO_CT", 1),
        ("NON_IMAGE_ONLY", 1),
        ("LOST_KERNEL", 1),
        ("NO_SUITABLE_SERIES", 21),
    }


def test_the_preferred_kernel_is_the_configurations(tmp_path):
    write(tmp_path / "a" / "x", changed("a"))
    write(tmp_path / "a" / "y", changed("b", ConvolutionKernel="B30f"))
    _, (study,) = indexed(tmp_path / "a")
    _, (soft,) = indexed(tmp_path / "a", config=Config(series=SeriesConfig(kernels="soft")))
    assert study.candidates[0].facts.kernel == "B70f"
    assert soft.candidates[0].facts.kernel == "B30f"


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        ("B30f", False), ("B70f", True), ("Br36d", False), ("Bl57d", True), ("B", False), ("L", True), ("YC", True),
        ("STANDARD", False), ("LUNG", True), ("BONEPLUS", True), ("DETAIL", False), ("FC10", False), ("FC52", True),
        ("D40s", False), ("I70f\\3", True), ("", False),
    ],
)  # fmt: skip
def test_the_vendors_kernels_are_told_apart(kernel, sharp):
    assert is_sharp(kernel) == sharp


@pytest.mark.parametrize(
    ("n_slices", "step_mm", "reason"),
    [(19, 8, "TOO_FEW_SLICES"), (24, 4, "NO_SUITABLE_SERIES"), (24, 11, "NO_SUITABLE_SERIES"), (20, 8, "")],
)
def test_too_few_too_short_and_too_wide_are_excluded(n_slices, step_mm, reason, tmp_path):
    data_sets = images(n_slices=n_slices)
    for data in data_sets:
        data.ImagePositionPatient = [0, 0, float(data.ImagePositionPatient[2]) / 8 * step_mm]
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert study.reason == reason


def test_order_comes_from_positions_never_from_numbers_or_names(tmp_path):
    data_sets = images()
    for number, data in enumerate(data_sets):
        data.InstanceNumber, data.SliceLocation = 1, -number
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    z = [source.z_mm for source in study.candidates[0].slices]
    assert z == sorted(z)
    assert np.allclose(z, np.arange(24) * 8.0)


def test_an_acquisition_number_that_changes_along_the_body_splits_nothing(tmp_path):
    data_sets = images()
    for data in data_sets:
        data.AcquisitionNumber = 1 + int(float(data.ImagePositionPatient[2]) > 90)
    write(tmp_path / "a", [*data_sets, images()[0]])
    _, (study,) = indexed(tmp_path / "a")
    assert len(study.candidates) == 1
    assert len(study.candidates[0].slices) == 24
