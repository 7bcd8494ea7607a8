"""Chosen studies are handed on whole, by key: rows, results, pictures, and DICOM objects where asked for."""

import csv
import json

import cv2
import numpy as np
import pytest

from pipeline import open_run
from pipeline.cli import main
from pipeline.errors import ConfigurationError
from pipeline.records import NOTICE
from pipeline.report.export import export


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_highest_scores_are_written_with_their_rows_results_and_pictures(plain, tmp_path, capsys):
    assert main(["export", str(plain.run), "--to", str(tmp_path / "out"), "--top", "2"]) == 0
    assert "2 studies in" in capsys.readouterr().out
    run = open_run(plain.run)
    wanted = run.studies.sort_values("probability", ascending=False)["study_key"].tolist()[:2]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *wanted, "studies.csv", "patients.csv", "csv-metadata.json", "run.toml",
    }  # fmt: skip
    written = rows(tmp_path / "out" / "studies.csv")
    assert written == [row for row in rows(plain.run / "studies.csv") if row["study_key"] in wanted]
    assert len(rows(tmp_path / "out" / "patients.csv")) == len({row["patient_key"] for row in written})
    for key in wanted:
        told = json.loads((tmp_path / "out" / key / "result.json").read_text())
        slices = run.slices[run.slices["study_key"] == key]
        assert told["notice"] == NOTICE
        assert [one["slice_index"] for one in told["result"]["slices"]] == slices["slice_index"].tolist()
        seen = sorted((tmp_path / "out" / key / "pictures").glob("*-seen.webp"))
        assert [int(path.name[:4]) for path in seen] == slices["slice_index"].tolist()
        assert cv2.imdecode(np.fromfile(seen[0], np.uint8), cv2.IMREAD_GRAYSCALE).shape[0] > 100
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]


def test_studies_are_chosen_by_key_and_dicom_objects_come_only_where_asked_for(plain, tmp_path):
    key = open_run(plain.run).studies["study_key"].iloc[-1]
    done = export(plain.run, tmp_path / "out", [key, key], dicom=True)
    assert (done.n_studies, done.n_objects) == (1, 5)
    assert len(list((tmp_path / "out" / "dicom" / key).glob("*.dcm"))) == 5
    assert [row["study_key"] for row in rows(tmp_path / "out" / "studies.csv")] == [key]


def test_an_unknown_key_or_a_folder_that_holds_something_is_refused_and_nothing_is_written(plain, tmp_path):
    with pytest.raises(ConfigurationError, match="no study of the run has the key"):
        export(plain.run, tmp_path / "out", ["A" * 26])
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        export(plain.run, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
