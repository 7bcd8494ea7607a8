"""Three real chest CTs (COVID-19, bacterial pneumonia, normal) go through as they lie on the disk; needs DRENET_TEST_DATA."""

import cv2
import numpy as np
import pydicom
import pytest

from pipeline import open_run
from pipeline.run.manifest import read_manifest
from pipeline.study.contact_sheet import COLUMNS, GAP, TILE

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def screened(real_data, weights, drenet, tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "run"
    archive = real_data / "covid-ct-md"
    done = drenet("screen", archive, "--weights", weights, "--out", out, "--contact-sheet", ranks=2)
    assert done.returncode == 0, done.stdout
    return out


def _studies(run):
    manifest = read_manifest(run / "private")
    return [manifest.study(number) for number in range(len(manifest.entries))]


def test_every_patient_is_scored_on_six_to_twelve_of_fifteen_slices(screened):
    studies = open_run(screened).studies
    assert len(studies) == 3
    assert set(studies["status"]) <= {"OK", "OK_WITH_WARNINGS"}
    assert studies["n_slices_scored"].between(6, 12).all()


def test_chosen_slices_are_in_anatomical_order_at_the_positions_in_their_files(screened, real_data):
    for study in _studies(screened):
        chosen = study.candidates[0].slices
        heights = [slice_.z_mm for slice_ in chosen]
        assert heights == sorted(heights)
        for slice_ in chosen:
            header = pydicom.dcmread(real_data / "covid-ct-md" / slice_.path, stop_before_pixels=True)
            assert float(header.ImagePositionPatient[2]) == pytest.approx(slice_.z_mm, abs=0.01)


def test_the_wanted_positions_divide_the_series_equally(screened):
    for study in _studies(screened):
        steps = np.diff([slice_.z_mm for slice_ in study.candidates[0].slices])
        assert (steps > 0).all()
        assert steps.max() - steps.min() <= 4.01  # two slice distances of 2 mm


def test_no_mask_of_theirs_is_doubted(screened):
    """On the normal patient a sliver of windpipe beside the midline once made lung of the aorta's arch, 20 cm2 of it."""
    assert "LUNG_IMPLAUSIBLE" not in set(open_run(screened).exclusions["code"])


def test_every_study_has_a_labelled_picture(screened):
    for study in _studies(screened):
        picture = cv2.imread(str(screened / "images" / f"{study.study_key}.png"))
        assert picture.shape[1] == COLUMNS * (TILE + GAP)
        assert picture.std() > 20
