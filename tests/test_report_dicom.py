"""DICOM outputs: they say what the tables say, in the matrix of the originals, and a validator finds no error in them."""

import shutil
import subprocess

import cv2
import highdicom as hd
import numpy as np
import pydicom
import pytest

from pipeline import open_run
from pipeline.archive import every_slice
from pipeline.archive.volume import _squared, orient
from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.phantom import torso
from pipeline.phantom.images import series
from pipeline.phantom.writer import write_series
from pipeline.records import ScoredSlice, StudyResult
from pipeline.report.dicom import write_dicom
from pipeline.report.dicom.objects import _towards
from pipeline.report.dicom.subject import Algorithm, read_subject, to_stored
from tests.fabricate import indexed

BOX_FROM = 0.3  # the weights are made from a formula: no detail of theirs reaches 0.8


@pytest.fixture(scope="module")
def objects(plain, tmp_path_factory):
    """file name -> path, of the study that scores highest."""
    folder = tmp_path_factory.mktemp("dicom") / "out"
    written = write_dicom(plain.run, folder, studies=2, box_from=BOX_FROM)
    assert (written.n_studies, written.n_objects, written.n_left_out) == (2, 10, 0)
    return {path.name: path for path in (folder / best_study(plain)).iterdir()}


def best_study(plain):
    return open_run(plain.run).studies.sort_values("probability", ascending=False)["study_key"].iloc[0]


@pytest.fixture(scope="module")
def originals(plain, objects):
    """The original data sets of that study by SOP instance UID."""
    study_uid = pydicom.dcmread(objects["report.dcm"]).StudyInstanceUID
    read = [pydicom.dcmread(path) for path in plain.archive.rglob("*.dcm")]
    return {data.SOPInstanceUID: data for data in read if study_uid == data.StudyInstanceUID}


def _details(plain):
    """(probability, lung_fraction, original box) of every detail of the best study."""
    results = open_run(plain.run).results
    row = results["studies/study_key"][:].tolist().index(best_study(plain).encode())
    first, n = results["studies/first_slice"][row], results["studies/n_slices_scored"][row]
    of_study = (results["details/slice"][:] >= first) & (results["details/slice"][:] < first + n)
    names = ("probability", "lung_fraction", "box_original")
    return list(zip(*(results[f"details/{name}"][:][of_study] for name in names), strict=True))


def test_the_report_reads_back_with_the_score_the_weights_and_every_finding(plain, objects, originals):
    report = hd.sr.srread(objects["report.dcm"])
    (whole,) = report.content.get_image_measurement_groups()
    (measured,) = whole.get_measurements()
    studies = open_run(plain.run).studies.set_index("study_key")
    assert measured.value == pytest.approx(studies.loc[best_study(plain), "probability"], abs=1e-6)
    said = report.to_json()
    assert "weights sha256" in said
    assert "Research use only" in said
    regions = report.content.get_planar_roi_measurement_groups()
    wanted = [box for probability, lung, box in _details(plain) if probability > BOX_FROM and lung >= 0.5]
    assert len(regions) == len(wanted) > 3
    got = []
    for region in regions:
        corners = region.roi.value
        assert np.array_equal(corners[0], corners[-1])
        assert region.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID in originals
        got.append((*corners[:, ::-1].min(axis=0), *corners[:, ::-1].max(axis=0)))
    expected = np.clip(np.array(wanted), 0, 128)
    assert np.allclose(np.array(sorted(got)), np.array(sorted(map(tuple, expected))), atol=0.01)


def test_the_segmentation_reads_back_as_the_lung_of_each_original(plain, objects, originals):
    lungs = hd.seg.segread(objects["lungs.dcm"])
    sources = [uids[2] for uids in lungs.get_source_image_uids()]
    assert set(sources) <= set(originals)
    masks = lungs.get_pixels_by_source_instance(sources, ignore_spatial_locations=True)[..., 0] > 0
    truth = np.load(next((plain.archive.parent / "archive-truth" / "masks").glob(f"{lungs.StudyInstanceUID}.npz")))
    z_mm = truth["z_mm"].round(3).tolist()
    of_source = [truth["lung"][z_mm.index(float(originals[uid].ImagePositionPatient[2]))] for uid in sources]
    true = np.stack(of_source)
    dice = 2 * (masks & true).sum() / (masks.sum() + true.sum())
    assert dice > 0.85


def test_the_overlays_keep_the_originals_matrix_and_say_what_they_show(objects, originals):
    for number in (1, 2, 3):
        image = pydicom.dcmread(objects[f"overlay-{number}.dcm"])
        source = originals[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert (image.Rows, image.Columns) == (source.Rows, source.Columns)
        assert image.BurnedInAnnotation == "NO"
        assert "Research use only" in image.SeriesDescription
        pixels = image.pixel_array.astype(int)
        assert ((pixels[..., 0] > 200) & (pixels[..., 1] > 180) & (pixels[..., 2] < 60)).sum() > 50  # the outline


def test_all_carry_the_patients_identity_and_study_as_the_originals_do(objects, originals):
    source = next(iter(originals.values()))
    for path in objects.values():
        data = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
            assert data[keyword].value == source[keyword].value, (path.name, keyword)
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in objects.values()}) == len(objects)


def test_made_again_the_objects_keep_their_uids(plain, objects, tmp_path):
    write_dicom(plain.run, tmp_path / "again", studies=1, box_from=BOX_FROM)
    for path in (tmp_path / "again" / best_study(plain)).iterdir():
        assert pydicom.dcmread(path).SOPInstanceUID == pydicom.dcmread(objects[path.name]).SOPInstanceUID


def test_a_folder_in_use_is_refused(plain, tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(ConfigurationError, match="not empty"):
        write_dicom(plain.run, tmp_path)


def test_what_has_gone_from_the_archive_is_left_out_and_counted(plain, tmp_path):
    moved = plain.archive.with_name("moved")
    plain.archive.rename(moved)
    try:
        written = write_dicom(plain.run, tmp_path / "out", studies=2)
    finally:
        moved.rename(plain.archive)
    assert (written.n_studies, written.n_left_out) == (0, 2)


AFFINES = {
    "as it is": (1, 0, 0, 0, 1, 0),
    "columns reversed": (1, 0, 0, 0, -1, 90),
    "rows reversed": (-1, 0, 120, 0, 1, 0),
    "turned": (0, 1, 0, 1, 0, 0),
    "turned and reversed": (0, -1, 120, 1, 0, 0),
}


@pytest.mark.parametrize("name", AFFINES)
def test_a_mask_of_the_volume_goes_back_to_the_stored_matrix(name):
    affine = AFFINES[name]
    stored = np.zeros((120, 90), np.uint8)
    cv2.ellipse(stored, (30, 70), (12, 33), 20, 0, 360, 1, -1)
    assert np.array_equal(to_stored(orient(stored, affine), affine, stored.shape), stored)
    hu = orient(stored, affine)[None].astype(np.int16) * 100
    spacing = (2.0, 1.0) if affine[0] else (1.0, 2.0)
    squared, _, back = _squared(hu, spacing, affine)
    again = to_stored((squared[0] > 50).astype(np.uint8), back, stored.shape)
    assert 2 * (again & stored).sum() / (again.sum() + stored.sum()) > 0.95


def test_the_orientation_of_an_overlay_is_its_originals():
    assert _towards([1, 0, 0, 0, 1, 0]) == ("L", "P")
    assert _towards([-1, 0, 0, 0, 0.98, 0.17]) == ("R", "P")
    assert _towards([0, 1, 0, 1, 0, 0]) == ("P", "L")


@pytest.mark.browser
def test_the_validator_finds_no_error(objects):
    if not shutil.which("dciodvfy"):
        pytest.fail("needs dciodvfy: apt-get install dicom3tools")
    for path in objects.values():
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]
        assert errors == [], path.name


def test_the_command_says_what_it_wrote_and_logs_no_identifier(plain, drenet, tmp_path):
    done = drenet("report", plain.run, "--dicom", tmp_path / "out", "--dicom-studies", "1")
    assert done.returncode == 0, done.stdout
    assert "5 DICOM objects of 1 studies" in done.stdout
    assert "carry the patients' identity" in done.stdout
    assert "1.2.826" not in done.stdout


def test_slices_that_were_chosen_again_are_those_of_the_objects(tmp_path):
    write_series(tmp_path / "a", series(torso(3, "covid", (420.0, 240.0), matrix=64, slices=60), "1"))
    _, (study,) = indexed(tmp_path / "a", Config())
    (candidate,) = study.candidates
    scored = tuple(ScoredSlice(place, 0.0, 0.0, ()) for place in (28, 29, 30, 31))
    assert not {one.slice_index for one in scored} <= {source.place for source in candidate.slices}
    result = StudyResult(study.study_key, "", "OK_WITH_WARNINGS", slices=scored)
    subject = read_subject(tmp_path / "a", result, candidate, Algorithm(0, "probability", "0" * 64, "covid", "0"), Config())
    assert [one.slice_index for one in subject.slices.values()] == [28, 29, 30, 31]
    assert sorted(subject.slices) == [0, 1, 2, 3] == list(range(len(subject.originals)))
    lowest = min(float(one.ImagePositionPatient[2]) for one in subject.originals)
    assert lowest == pytest.approx(every_slice(candidate)[28].z_mm, abs=0.01)
