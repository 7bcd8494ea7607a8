"""From every key to the file and UIDs behind it and back, whatever kind of file it is; only where private/ is."""

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import Config, SeriesConfig
from pipeline.errors import ConfigurationError
from pipeline.mpi.world import Alone
from pipeline.phantom.images import to_bytes
from pipeline.pseudonym import make_key
from pipeline.run.find import find
from pipeline.run.manifest import read_manifest
from pipeline.run.read_tables import Run
from pipeline.screening import index_only
from tests.fabricate import CONFIG, images, phantom, write

N = 26


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """An archive with a study of each kind, indexed: the run, and the instance UIDs by file name."""
    folder = tmp_path_factory.mktemp("find")
    archive = folder / "archive"
    plain, packed = images("plain"), images("packed")
    write(archive / "CANARY files", plain)
    write(archive / "CANARY files", images("plain", kind="few")[:5], start=900)
    with zipfile.ZipFile(archive / "ct.zip", "w") as file:
        for number, data in enumerate(packed):
            file.writestr(f"in/{number:04d}", to_bytes(data).getvalue())
    (archive / "pictures").mkdir()
    for number in range(8):
        cv2.imwrite(str(archive / "pictures" / f"{number}.png"), np.full((128, 128), 20 * number, np.uint8))
    hu = phantom(matrix=64).hu.transpose(2, 1, 0)
    (archive / "volume").mkdir()
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-5.0, -5.0, 8.0, 1.0])), archive / "volume" / "ct.nii.gz")
    make_key(folder / "key")
    index_only(Alone(), archive, folder / "run", CONFIG, folder / "key")
    return folder / "run", [str(data.SOPInstanceUID) for data in plain], [str(data.SOPInstanceUID) for data in packed]


def study_of(run, kind, container=""):
    manifest = read_manifest(run / "private")
    studies = [manifest.study(number) for number in range(len(manifest.entries))]
    (found,) = [one for one in studies if one.candidates and one.candidates[0].kind == kind
                and container in one.candidates[0].slices[0].path]  # fmt: skip
    return found


KINDS = [("dicom", "CANARY"), ("dicom", "ct.zip"), ("image", ""), ("nifti", "")]


@pytest.mark.parametrize(("kind", "container"), KINDS)
def test_a_key_leads_to_the_file_and_the_file_and_its_uids_back_to_the_key(indexed, kind, container):
    run, study = indexed[0], study_of(indexed[0], kind, container)
    series = study.candidates[0]
    whole = find(run, study.study_key)
    assert {one.study_key for one in whole} == {study.study_key}
    assert all(Path(one.path).is_file() for one in whole)
    assert [one for one in whole if one.series_key == series.series_key] == find(run, series.series_key)
    assert set(whole) <= set(find(run, study.patient_key))
    assert find(run, study.study_uid) == whole
    for source in (series.slices[0], series.slices[-1]):
        (one,) = find(run, f"{series.series_key}/{source.place}")
        assert [one] == find(run, f"{study.study_key}/{source.place}")
        assert (one.member, one.frame, one.slice_index) == (source.member, source.frame, source.place)
        name = f"{one.path}!/{one.member}" if one.member else one.path
        back = find(run, name)
        assert one in back
        assert {each.path for each in back} == {one.path}
        assert one in find(run, one.sop_uid or one.study_uid)


def test_the_instances_are_those_of_the_files(indexed):
    run, plain, packed = indexed
    for container, uids in (("CANARY", plain), ("ct.zip", packed)):
        found = find(run, study_of(run, "dicom", container).candidates[0].series_key)
        assert sorted(one.sop_uid for one in found) == sorted(uids)
        for one in found:
            number = int(Path(one.member or one.path).stem)
            assert one.sop_uid == uids[number]


def test_a_series_that_was_no_candidate_leads_to_its_files_too(indexed):
    run, study = indexed[0], study_of(indexed[0], "dicom", "CANARY")
    (lost,) = study.lost
    found = find(run, lost.series_key)
    assert len(found) == lost.n_slices == 5
    assert {int(Path(one.path).stem) >= 900 for one in found} == {True}
    assert all(one in find(run, study.study_key) for one in found)


def test_a_path_may_be_absolute_or_below_the_archive_and_hold_any_name(indexed, monkeypatch):
    run, archive = indexed[0], indexed[0].with_name("archive")
    wanted = find(run, str(archive / "CANARY files" / "0003.dcm"))
    assert len(wanted) == 1
    assert find(run, "CANARY files/0003.dcm") == wanted
    monkeypatch.chdir(archive / "CANARY files")
    assert find(run, str(Path("0003.dcm").absolute())) == wanted


@pytest.mark.parametrize("unknown", ["", "A" * 26, "A" * 26 + "/3", "1.2.3", "pictures/9.png", "ct.zip!/absent", "/etc/passwd"])
def test_what_is_unknown_is_refused_saying_what_may_be_asked(indexed, unknown):
    with pytest.raises(ConfigurationError, match="no study, series, patient, slice, UID or file of that name"):
        find(indexed[0], unknown)


def test_a_slice_that_is_none_is_told_from_a_key_that_is_none(indexed):
    with pytest.raises(ConfigurationError, match="there is no slice 999"):
        find(indexed[0], f"{study_of(indexed[0], 'image').study_key}/999")


def test_without_the_private_folder_it_is_refused_saying_why(indexed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(indexed[0], copy, ignore=shutil.ignore_patterns("private"))
    with pytest.raises(ConfigurationError, match=r"private is not here.*stays where the archive is"):
        Run(copy).find(study_of(indexed[0], "image").study_key)


def test_the_command_says_it_in_words_and_as_json(indexed, capsys):
    run, study = indexed[0], study_of(indexed[0], "dicom", "ct.zip")
    asked = f"{study.study_key}/0"
    assert main(["find", str(run), asked]) == 0
    said = capsys.readouterr().out
    assert "ct.zip!/in/" in said
    assert "This identifies patients" in said
    assert main(["find", str(run), asked, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)[asked]
    assert one["sop_uid"] in indexed[2]
    assert main(["find", str(run), "absent"]) == 2


def test_pictures_of_a_list_are_found_by_their_rows(tmp_path):
    (tmp_path / "heap").mkdir()
    rows = ["file,patient"]
    for number in range(6):
        cv2.imwrite(str(tmp_path / "heap" / f"{number}.png"), np.full((128, 128), 20 * number, np.uint8))
        rows.append(f"heap/{number}.png,P{number % 2}")
    (tmp_path / "list.csv").write_text("\n".join([*rows, ""]))
    make_key(tmp_path / "key")
    config = Config(series=SeriesConfig(min_pictures=1))
    index_only(Alone(), tmp_path / "list.csv", tmp_path / "run", config, tmp_path / "key")
    (one,) = find(tmp_path / "run", str(tmp_path / "heap" / "4.png"))
    assert (one.patient_id, one.slice_index) == ("P0", 2)
    assert [image.path[-5:] for image in find(tmp_path / "run", one.study_key)] == ["0.png", "2.png", "4.png"]


def test_one_image_is_said_as_one(indexed, capsys):
    run, uids, _ = indexed
    study = study_of(run, "dicom", "CANARY")
    assert main(["find", str(run), uids[0], study.study_key]) == 0
    said = capsys.readouterr().out
    assert f"{uids[0]}: 1 image\n" in said
    assert f"{study.study_key}: {len(find(run, study.study_key))} images\n" in said
