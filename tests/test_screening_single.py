"""One study by itself gives the numbers of a bulk run, to the last digit, whatever it came as."""

import shutil
import zipfile

import pytest

import pipeline
from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.phantom.chest import chest
from pipeline.run.resume import results_of
from pipeline.screening import keep
from tests.test_archive_nifti import bytes_of, image_of, put
from tests.test_archive_picture_greys import write_patient


def numbers(result):
    """What must be equal: everything but the keys, which tell places apart where a file holds no UID."""
    return result.status, result.reason, result.warnings, result.probabilities, result.slices, result.facts


@pytest.fixture(scope="module")
def study(plain):
    """The folder of one study of the plain archive, and its result there."""
    return next(path for path in sorted(plain.archive.rglob("*")) if path.is_file()).parent


def _of(plain, key):
    return next(result for result in results_of(plain.run) if result.study_key == key)


def test_a_folder_gives_the_numbers_of_the_bulk_run(plain, study, weights):
    result = pipeline.screen_one(study, weights, key_file=plain.run.with_name("key"))
    assert result.probabilities
    assert result == _of(plain, result.study_key)


def test_a_zip_gives_the_numbers_of_the_bulk_run_with_networks_that_are_kept(plain, study, weights, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in study.iterdir():
            file.write(path, path.name)
    stages, key = [], plain.run.with_name("key")
    kept = keep([weights], Config(), stages.append)
    for name in ("first", "second"):
        result = pipeline.screen_one(tmp_path / "study.zip", weights, key_file=key, kept=kept, out=tmp_path / name)
        assert numbers(result) == numbers(_of(plain, result.study_key))
        assert (tmp_path / name / "report" / "index.html").exists()
    assert stages == ["read", "lung", "prepare", "infer", "pictures"] * 2


@pytest.mark.long
def test_several_studies_are_answered_each(plain, weights):
    results = pipeline.screen_few(plain.archive, weights, key_file=plain.run.with_name("key"))
    assert results == results_of(plain.run)
    with pytest.raises(ConfigurationError, match="4 studies"):
        pipeline.screen_one(plain.archive, weights)


@pytest.mark.parametrize("kind", ["nifti", pytest.param("pictures", marks=pytest.mark.long)])
def test_volumes_and_pictures_give_the_numbers_of_a_bulk_run(kind, weights, tmp_path):
    phantom = chest(81_000, "covid", matrix=128, slices=26)
    if kind == "nifti":
        put(tmp_path / "archive" / "ct.nii.gz", bytes_of(image_of(phantom)))
    else:
        write_patient(tmp_path / "archive", phantom, [6, 9, 12, 15, 18], (-1450, 50))
    files = sorted((tmp_path / "archive").iterdir())
    pipeline.screen(tmp_path / "archive", weights, tmp_path / "run")
    (expected,) = results_of(tmp_path / "run")
    assert expected.probabilities
    assert numbers(pipeline.screen_one(files, weights)) == numbers(expected)


def test_files_of_one_name_are_all_taken(plain, study, weights, tmp_path):
    for number, path in enumerate(sorted(study.iterdir())):
        (tmp_path / str(number)).mkdir()
        shutil.copy(path, tmp_path / str(number) / "IM0001")
    result = pipeline.screen_one(sorted(tmp_path.rglob("IM0001")), weights, key_file=plain.run.with_name("key"))
    assert numbers(result) == numbers(_of(plain, result.study_key))
