"""An archive without CT ends with exit code 2, saying what is there instead; its manifest and tables can still be read."""

import gzip
import zipfile

import pytest

from pipeline import open_run
from pipeline.errors import ConfigurationError
from pipeline.records import Event, Study
from pipeline.report.flow import read_flow
from pipeline.run.kinds import counted, kind_of
from pipeline.run.manifest import Heading, check_has_ct, read_manifest, write_manifest


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/ct.nii.gz", "NIfTI"),
        ("CT.NII", "NIfTI"),
        ("1.dcm.gz", "gzipped DICOM"),
        ("1.gz", "gzipped"),
        ("v.mha", "MetaImage, NRRD or Analyze"),
        ("old.7z", "containers that cannot be read"),
        ("nii", "other"),
        ("", "other"),
    ],
)
def test_a_file_is_of_the_kind_that_its_name_says(name, kind):
    assert kind_of(name) == kind


def test_kinds_are_told_with_their_numbers_the_known_ones_first():
    assert counted({"other": 1200, "NIfTI": 2, "gzipped": 0}) == "2 NIfTI, 1,200 other"


@pytest.fixture
def volumes(tmp_path):
    """Two headers of NIfTI (one gzipped, one within a ZIP), something gzipped and a note; a container counts as a file, too."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "CANARY.nii.gz").write_bytes(gzip.compress(b"\x5c\x01\0\0" + bytes(5000)))
    (folder / "thing.gz").write_bytes(gzip.compress(b"no image"))
    (folder / "notes.txt").write_text("no image here")
    with zipfile.ZipFile(folder / "more.zip", "w") as file:
        file.writestr("CANARY.nii", bytes(500))
    return folder


def test_indexing_it_says_what_is_there_and_keeps_the_manifest(volumes, drenet, tmp_path):
    done = drenet("index", volumes, "--out", tmp_path / "run")
    assert (
        done.returncode,
        "no CT in the archive: 6 files and members of containers, of no study: 2 NIfTI, 1 gzipped, 1 other" in done.stdout,
    ) == (
        2,
        True,
    ), done.stdout
    assert "; left out as " in done.stdout
    assert "CANARY" not in done.stdout
    assert read_manifest(tmp_path / "run" / "private").heading.n_files == 6


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_screening_it_says_the_same_and_keeps_tables_and_report(ranks, volumes, weights, drenet, tmp_path):
    screen = ("screen", volumes, "--weights", weights, "--out", tmp_path / "run")
    for _ in range(2):  # and so does whoever starts it again
        done = drenet(*screen, ranks=ranks)
        assert (done.returncode, "of no study: 2 NIfTI, 1 gzipped, 1 other" in done.stdout) == (2, True), done.stdout
    assert read_flow(open_run(tmp_path / "run")).files[0].count == 6
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_an_empty_archive_holds_no_file_at_all(drenet, weights, tmp_path):
    (tmp_path / "archive").mkdir()
    done = drenet("screen", tmp_path / "archive", "--weights", weights, "--out", tmp_path / "run")
    assert (done.returncode, "no CT in the archive: no file at all" in done.stdout) == (2, True), done.stdout
    assert len(open_run(tmp_path / "run").studies) == 0


def _checked(private, *reasons):
    studies = [Study(f"s{n}", "p", "uid", "id", status="EXCLUDED", reason=reason) for n, reason in enumerate(reasons)]
    private.mkdir(exist_ok=True)
    write_manifest(private, Heading("/a", "k", "s", 9, (Event("file", "walk", "EMPTY_FILE", 2),)), studies)
    check_has_ct(private)


def test_studies_of_other_images_are_counted_as_such(tmp_path):
    with pytest.raises(
        ConfigurationError, match="9 files and members of containers; 2 studies without CT; left out as EMPTY_FILE 2"
    ):
        _checked(tmp_path / "private", "NO_CT", "NON_IMAGE_ONLY")


@pytest.mark.parametrize("reason", ["NOT_CHEST", "LOCALIZER_ONLY", "TOO_FEW_SLICES"])
def test_ct_that_cannot_be_screened_is_ct_all_the_same(reason, tmp_path):
    _checked(tmp_path / "private", "NO_CT", reason)
