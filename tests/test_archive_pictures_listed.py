"""A CSV of exported pictures: few a patient, of any size, with or without masks; trained on, evaluated, screened."""

import csv
import re

import cv2
import numpy as np
import pytest

import pipeline
from pipeline.archive import Decoder, read_list, read_mask, read_volume
from pipeline.config import Config, SeriesConfig
from pipeline.errors import ConfigurationError
from pipeline.evaluation.evaluate import Asked, evaluate
from pipeline.phantom import CohortPlan
from pipeline.phantom.cohort import chest_of
from pipeline.pseudonym import make_key
from pipeline.run.manifest import read_manifest
from pipeline.study.drenet import load_checkpoint

RECIPE = """
width = 0.0625
micro_batch = 2
slices_per_epoch = 12
trunk_epochs = 1
epochs = 1
optimiser = "adamw"
"""
N_PATIENTS, CORRUPT = 8, "broken.png"


def grey(hu, low=-1000.0, high=-235.0):
    return np.clip(np.rint((hu - low) * 255 / (high - low)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A heap of 8 patients' pictures, one to four of each, PNG or JPEG, of two sizes; every third patient's have masks."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "heap" / "masks").mkdir(parents=True)
    plan = CohortPlan((0, 0, 0), seed=21, matrix=128, slices=24)
    rows = []
    for number in range(N_PATIENTS):
        label = ("covid", "bacterial")[number % 2]
        phantom = chest_of(plan, number, label)
        for n, place in enumerate((12, 9, 15, 10)[: 1 + number % 4]):
            name = f"heap/CANARY{number}-{n}" + (".jpg" if number % 2 else ".png")
            image = grey(phantom.hu[place])
            image = cv2.resize(image, (200, 180)) if n == 1 else image
            cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
            mask = f"heap/masks/{number}-{n}.png" if number % 3 == 0 else ""
            if mask:
                cv2.imwrite(str(folder / mask), phantom.lung[place].astype(np.uint8) * 255)
            rows.append((name, f"CANARYPATIENT{number}", label, mask))
    (folder / CORRUPT).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    rows.append((CORRUPT, "CANARYPATIENT0", "covid", ""))
    write_list(folder / "pictures.csv", rows)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def write_list(path, rows, head=("file", "patient", "label", "mask")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def screened(pictures, weights):
    """The heap, screened with a formula network."""
    make_key(pictures / "key")
    return pipeline.screen(pictures / "pictures.csv", weights, pictures / "run", key_file=pictures / "key")


def test_every_patient_of_the_list_is_a_study_and_every_file_is_accounted_for(pictures, screened):
    assert screened.by_status == {"OK_WITH_WARNINGS": N_PATIENTS}
    n_listed = len(rows_of(pictures / "pictures.csv"))
    assert screened.n_files == n_listed
    run = pipeline.open_run(pictures / "run")
    assert run.studies["n_files"].sum() == n_listed - 1
    assert run.exclusions.query("scope == 'file'")[["code", "count"]].to_numpy().tolist() == [["HEADER_CORRUPT", 1]]
    assert run.studies["n_slices_scored"].sum() == run.studies["n_files"].sum()  # all of them mid-lung
    outside = [path for path in (pictures / "run").rglob("*") if path.is_file() and "private" not in path.parts]
    assert not [path.name for path in outside if b"CANARY" in path.read_bytes()]


@pytest.mark.long
def test_a_list_is_trained_on_and_trained_and_screened_runs_are_evaluated(pictures, screened, drenet, monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.intervals.N_RESAMPLES", 20)
    listed = pictures / "pictures.csv"
    asked = ("--task", "covid-vs-bacterial", "--recipe", pictures / "recipe.toml", "--labels", listed)
    done = drenet("train", listed, *asked, "--out", pictures / "trained", "--key-file", pictures / "key")
    assert done.returncode == 0, done.stdout
    for run in ("trained", "run"):
        evaluate(Asked(pictures / run, listed))
    split = rows_of(pictures / "trained" / "split.csv")
    assert len(split) == N_PATIENTS
    tested = rows_of(pictures / "trained" / "evaluation" / "test" / "patients.csv")
    assert {row["patient_key"] for row in tested} == {row["patient_key"] for row in split if row["part"] == "test"}
    assert load_checkpoint(pictures / "trained" / "best.safetensors").metadata.task == "covid-vs-bacterial"
    assert len(rows_of(pictures / "run" / "evaluation" / "probability" / "patients.csv")) == N_PATIENTS


def series_of(pictures, patient):
    manifest = read_manifest(pictures / "run" / "private")
    studies = [manifest.study(number) for number in range(len(manifest.entries))]
    return next(study for study in studies if study.patient_id == f"CANARYPATIENT{patient}").candidates[0]


def test_pictures_of_other_sizes_are_fitted_and_stay_in_the_order_of_their_rows(pictures, screened):
    phantom = chest_of(CohortPlan((0, 0, 0), seed=21, matrix=128, slices=24), 2, "covid")
    with Decoder() as decoder:
        volume = read_volume(pictures, series_of(pictures, 2), range(3), decoder)
    assert volume.hu.shape == (3, 128, 128)
    for read, place in zip(volume.hu, (12, 9, 15), strict=True):
        assert np.corrcoef(read.ravel(), np.clip(phantom.hu[place], -1000, -235).ravel())[0, 1] > 0.97


def test_a_given_mask_is_the_lung(pictures, screened):
    series = series_of(pictures, 3)
    phantom = chest_of(CohortPlan((0, 0, 0), seed=21, matrix=128, slices=24), 3, "bacterial")
    with Decoder() as decoder:
        for source, place in zip(series.slices, (12, 9, 15, 10), strict=True):
            assert (read_mask(pictures, source.mask, (128, 128), decoder) == phantom.lung[place]).all()
    run = pipeline.open_run(pictures / "run")
    slices = run.slices[run.slices["study_key"].isin(run.studies.query("series_key == @series.series_key")["study_key"])]
    pixel_mm2 = series.spacing_mm[0] ** 2
    wanted = [phantom.lung[place].sum() * pixel_mm2 for place in (12, 9, 15, 10)]
    assert sorted(slices["lung_area_mm2"]) == pytest.approx(sorted(wanted))


def test_grey_means_what_the_configuration_says(tmp_path, weights):
    phantom = chest_of(CohortPlan((0, 0, 0), seed=5, matrix=128, slices=24), 0, "covid")
    cv2.imwrite(str(tmp_path / "a.png"), grey(phantom.hu[12], -1450.0, 50.0))
    write_list(tmp_path / "p.csv", [("a.png", "A")], ("file", "patient_id"))
    make_key(tmp_path / "key")
    config = Config(series=SeriesConfig(picture_low_hu=-1450.0, picture_high_hu=50.0))
    done = pipeline.screen(tmp_path / "p.csv", weights, tmp_path / "run", config=config, key_file=tmp_path / "key")
    assert done.by_status == {"OK_WITH_WARNINGS": 1}
    manifest = read_manifest(tmp_path / "run" / "private")
    with Decoder() as decoder:
        hu = read_volume(tmp_path, manifest.study(0).candidates[0], [0], decoder).hu[0]
    inside = (phantom.hu[12] > -1400) & (phantom.hu[12] < 0)
    assert np.abs(hu.astype(float) - phantom.hu[12])[inside].max() <= 4


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        ([], ("file", "patient"), "at least one row"),
        ([("a.png", "A")], ("name", "patient"), "needs the columns file and patient"),
        ([("a.png", "A"), ("a.png", "B")], ("file", "patient"), "lines 2 and 3 name the same file"),
        ([("a.png", "")], ("file", "patient"), "line 2: file and patient must not be empty"),
        ([("../a.png", "A")], ("file", "patient"), "stay within it"),
        ([("/etc/a.png", "A")], ("file", "patient"), "stay within it"),
        ([("a.png", "A", "no.png")], ("file", "patient", "mask"), "line 2: the mask is not there"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_by_line(tmp_path, rows, head, said):
    write_list(tmp_path / "p.csv", rows, head)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        read_list(tmp_path / "p.csv")


def test_dicom_images_are_no_pictures_and_a_missing_file_is_counted(tmp_path, archive, weights):
    make_key(tmp_path / "key")
    image = next(path for path in sorted(archive.rglob("*.dcm")) if "CT" in path.parts)
    (tmp_path / "a.dcm").write_bytes(image.read_bytes())
    write_list(tmp_path / "p.csv", [("a.dcm", "A")], ("file", "patient"))
    with pytest.raises(ConfigurationError, match="names DICOM images"):
        pipeline.screen(tmp_path / "p.csv", weights, tmp_path / "run", key_file=tmp_path / "key")
    write_list(tmp_path / "q.csv", [("gone.png", "A")], ("file", "patient"))
    done = pipeline.screen(tmp_path / "q.csv", weights, tmp_path / "other", key_file=tmp_path / "key")
    assert (done.by_status, done.by_reason, done.n_files) == ({"EXCLUDED": 1}, {"TOO_FEW_SLICES": 1}, 1)
    with pytest.raises(ConfigurationError, match="a CSV that lists pictures"):
        pipeline.screen(tmp_path / "none.csv", weights, tmp_path / "third", key_file=tmp_path / "key")
