"""Headers: the own walk agrees with pydicom on sound files, and gives every broken one its reason."""

import warnings
from pathlib import Path

import pydicom

from pipeline.archive import list_folder, scan_file

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def scanned(root):
    _, files, _ = list_folder(root, "")
    yield from (scan_file(root, file) for file in files)


def test_the_walk_reads_of_pydicoms_own_files_what_pydicom_reads():
    n_compared = 0
    for file in scanned(TEST_FILES):
        headers = file.records[0].headers
        if not headers:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(TEST_FILES / file.path, force=True, stop_before_pixels=True)
            assert headers[0].study_uid == data.StudyInstanceUID
            assert headers[0].series_uid == data.SeriesInstanceUID
            assert headers[0].source.rows == data.get("Rows", 0)
            assert headers[0].source.syntax == data.file_meta.get("TransferSyntaxUID", headers[0].source.syntax)
            if data.get("ImagePositionPatient"):
                assert headers[0].position == tuple(map(float, data.ImagePositionPatient))
        n_compared += 1
    assert n_compared > 50
