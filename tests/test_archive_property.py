"""Random CT series of every syntax, sign, depth, padding, rescale, tilt, order and container are read as written."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pipeline.archive import Decoder, build_study, list_folder, read_volume, scan_file
from pipeline.config import SeriesConfig
from tests.ct_series import STUDY, plans, wanted_hu, write_series

EXPECTED = {"duplicated": "DUPLICATE_SLICES", "shear": "GANTRY_TILT"}
SAME_EVERY_TIME = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "phases": (Phase.generate, Phase.shrink),
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


def read(folder, decoder):
    """(series, volume) of a folder's only study, all slices of its first candidate."""
    _, files, _ = list_folder(folder, "")
    records = [record for file in files for record in scan_file(folder, file).records]
    study = build_study(STUDY, records, SeriesConfig(), bytes(32))
    assert study.reason == ""
    (series,) = study.candidates
    return series, read_volume(folder, series, range(len(series.slices)), decoder)


def check(plan, decoder):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one name in a ZIP
        write_series(plan, Path(folder))
        series, volume = read(Path(folder), decoder)
    expected = {code for name, code in EXPECTED.items() if getattr(plan, name)} | (
        {"NOT_HU"} if plan.syntax == ".4.51" else set()
    )
    assert {event.code for event in series.events} == expected
    assert [event.code for event in volume.events] == ["HU_CLIPPED"] * plan.metal
    assert np.array_equal(volume.hu, wanted_hu(plan))
    assert np.allclose(np.diff(volume.z_mm), plan.step_mm, atol=1e-3)


@settings(max_examples=100, **SAME_EVERY_TIME)
@given(plan=plans())
def test_a_hundred_random_series_are_read_as_they_were_written(plan, decoder):
    check(plan, decoder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000, **SAME_EVERY_TIME)
@given(plan=plans())
def test_two_thousand_random_series_are_read_as_they_were_written(plan, decoder):
    check(plan, decoder)
