"""A network's columns are named after its task, or as the user says; what was written under older names stays readable."""

import csv
import hashlib
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from pipeline import open_run
from pipeline.errors import ConfigurationError
from pipeline.records import DRAWN
from pipeline.report import write_report
from pipeline.run.gather import gather
from pipeline.run.status import read_status
from pipeline.run.weights import TAKEN, Weights, above_of, check_names, column_names, weights_of
from pipeline.study.drenet import formula_network, load_checkpoint, save_checkpoint
from pipeline.study.shipped import CURRENT, shipped_weights
from tests.fabricate_run import NETWORK, fabricated_run

TASK = "covid-vs-bacterial"


def head(path):
    with path.open() as file:
        return next(csv.reader(file))


@pytest.fixture(scope="module")
def tasked(tmp_path_factory, weights):
    """Checkpoints of one task, with a threshold, by name."""
    folder = tmp_path_factory.mktemp("tasked")
    metadata = replace(load_checkpoint(weights).metadata, task=TASK, threshold=0.5)
    for name, phase in (("wide", 0.5), ("narrow", 0.25)):
        network = formula_network(1 / 16, phase=phase)
        network.metadata = metadata
        save_checkpoint(network, folder / f"{name}.safetensors")
    return folder


def test_the_shipped_networks_are_known_by_their_digests_and_say_what_they_were_trained_on(weights):
    files = shipped_weights().values()
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == CURRENT
    assert all(load_checkpoint(path).metadata.meaning.endswith(f"; {DRAWN}") for path in files)
    assert DRAWN not in load_checkpoint(weights).metadata.meaning


@pytest.mark.parametrize(
    ("asked", "tasks", "named"),
    [
        (["a.ckpt"], [""], ["probability"]),
        (["a.ckpt"], [TASK], ["covid_vs_bacterial"]),
        (["a.ckpt", "b.ckpt"], [TASK, "covid-vs-healthy"], ["covid_vs_bacterial", "covid_vs_healthy"]),
        (["a.ckpt", "b.ckpt"], [TASK, TASK], ["covid_vs_bacterial_a", "covid_vs_bacterial_b"]),
        (["one/best.ckpt", "two/best.ckpt"], [TASK, TASK], ["covid_vs_bacterial_one_best", "covid_vs_bacterial_two_best"]),
        (["covid-vs-bacterial.ckpt", "b.ckpt"], [TASK, TASK], ["covid_vs_bacterial", "covid_vs_bacterial_b"]),
        (["wide.ckpt", "slim.ckpt"], ["", ""], ["probability_wide", "probability_slim"]),
        (["Mine=a.ckpt", "b.ckpt"], [TASK, TASK], ["Mine", "covid_vs_bacterial"]),
        (["a.ckpt", "b.ckpt"], [TASK, ""], ["covid_vs_bacterial", "probability"]),
        (["a.ckpt"], ["7 or 8?"], ["probability"]),
    ],
)
def test_a_networks_column_is_named_after_its_task_or_as_the_user_says(asked, tasks, named):
    assert column_names([weights_of(one) for one in asked], tasks) == named


@pytest.mark.parametrize(
    ("asked", "tasks"),
    [
        (["a.ckpt", "a.ckpt"], [TASK, TASK]),
        (["label=a.ckpt"], [""]),
        (["x=a.ckpt", "x=b.ckpt"], ["", ""]),
        (["a.ckpt"], ["status"]),
        (["x=a.ckpt", "x_above=b.ckpt"], ["", ""]),
    ],
)
def test_columns_that_would_be_called_alike_are_refused_with_the_cure(asked, tasks):
    with pytest.raises(ConfigurationError, match="--weights NAME=PATH"):
        column_names([weights_of(one) for one in asked], tasks)


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=20)), min_size=1, max_size=4))
def test_whatever_tasks_and_files_are_called_columns_are_plain_names_that_differ(pairs):
    asked = [Weights(Path("/weights") / f"x{stem.replace('/', '').replace(chr(0), '')}.ckpt") for _, stem in pairs]
    try:
        names = column_names(asked, [task for task, _ in pairs])
    except ConfigurationError:
        return
    columns = [*names, *map(above_of, names), *TAKEN]
    assert len(set(columns)) == len(columns)
    assert all(name.isascii() and name.isidentifier() and len(name) < 150 for name in names)


def test_a_path_that_holds_an_equals_sign_and_is_there_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights_of("run=1.ckpt") == Weights(Path("1.ckpt"), "run")
    (tmp_path / "run=1.ckpt").touch()
    assert weights_of("run=1.ckpt") == Weights(Path("run=1.ckpt"))
    assert weights_of(Path("absent=1.ckpt")) == Weights(Path("absent=1.ckpt"))
    assert weights_of("runs/a=b/best.ckpt") == Weights(Path("runs/a=b/best.ckpt"))
    assert str(weights_of("a=b=c.ckpt")) == "a=b=c.ckpt"
    assert str(weights_of("a=b.ckpt").absolute()) == f"a={tmp_path}/b.ckpt"


def test_a_name_that_is_none_is_refused_saying_so(tmp_path):
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(ConfigurationError, match="'my net' names no column"):
        check_names([weights_of(f"my net={tmp_path}/a.ckpt")])


def test_every_table_report_and_run_toml_call_networks_alike(plain, tasked, drenet, tmp_path):
    run, files = tmp_path / "run", [tasked / "wide.safetensors", tasked / "narrow.safetensors"]
    done = drenet(*plain.screen, "--weights", files[0], "--weights", f"mine={files[1]}", "--out", run)
    assert done.returncode == 0, done.stdout
    columns = ["covid_vs_bacterial", "covid_vs_bacterial_above", "mine", "mine_above"]
    described = tomllib.loads((run / "run.toml").read_text())
    assert [one["column"] for one in described["networks"]] == columns[::2]
    assert set(columns) < set(head(run / "studies.csv")) & set(head(run / "patients.csv"))
    assert set(columns[::2]) < set(pq.read_schema(run / "slices.parquet").names)
    with h5py.File(run / "results.h5") as results:
        assert set(columns) < set(results["studies"])
        assert set(columns[::2]) < set(results["slices"])
        scores = results["studies/mine"][:]
        assert results["studies/mine_above"][:].tolist() == [int(score >= 0.5) for score in scores]
    assert open_run(run).studies["mine"].tolist() == scores.tolist()
    told = {
        table["url"]: table["tableSchema"]["columns"] for table in json.loads((run / "csv-metadata.json").read_text())["tables"]
    }
    for name in ("studies.csv", "patients.csv", "exclusions.csv"):
        assert [column["name"] for column in told[name]] == head(run / name)
        assert all(column["dc:description"] for column in told[name])
    above = next(column for column in told["studies.csv"] if column["name"] == "mine_above")
    assert "0.5 or more" in above["dc:description"]
    page, data = (run / "report" / "index.html").read_text(), (run / "report" / "data" / "studies.js").read_text()
    assert all(f'"name":"{name}"' in data for name in columns)
    assert "mine at or above its threshold, 0.500" in page
    assert "threshold 0.500" in page
    for name in (*head(run / "studies.csv"), *head(run / "patients.csv"), *pq.read_schema(run / "slices.parquet").names):
        assert name in TAKEN | set(columns), f"{name} could be taken for a network's column"


def old_names(run):
    """The run as an older version left it: its networks under the older names."""
    described = tomllib.loads((run / "run.toml").read_text())
    for number, network in enumerate(described["networks"], 1):
        network["column"] = "probability" if number == 1 else f"probability_{number}"
    (run / "run.toml").write_text(tomli_w.dumps(described))


def test_a_run_under_the_older_names_stays_readable_and_goes_on_under_the_new_ones(plain, tasked, drenet, tmp_path):
    run, files = tmp_path / "run", [tasked / "wide.safetensors", tasked / "narrow.safetensors"]
    screen = (*plain.screen, "--weights", files[0], "--weights", files[1], "--out", run)
    assert drenet(*screen).returncode == 0
    new = {name: (run / name).read_bytes() for name in ("studies.csv", "patients.csv", "slices.parquet", "results.h5")}
    old_names(run)
    assert drenet("gather", run).returncode == 0
    assert {"probability", "above_threshold", "probability_2", "above_threshold_2"} < set(open_run(run).studies)
    assert "probability_2 at or above" in write_report(run).read_text()
    assert read_status(run).n_open == 0
    lines = next((run / "journal").rglob("rank-*.jsonl"))
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:-1]))  # half done
    for path in run.rglob("*.notes"):
        path.unlink()
    assert drenet(*screen).returncode == 0
    assert {name: (run / name).read_bytes() for name in new} == new


def test_tables_that_do_not_yet_have_their_networks_new_names_are_refused_with_the_cure(tmp_path):
    fabricated_run(tmp_path, 20)
    described = tomllib.loads((tmp_path / "run.toml").read_text())
    described["networks"][0]["column"] = "mine"
    (tmp_path / "run.toml").write_text(tomli_w.dumps(described))
    with pytest.raises(ConfigurationError, match="drenet gather"):
        write_report(tmp_path)
    gather(tmp_path, [NETWORK])
    old = tmp_path.with_name("old")
    shutil.copytree(tmp_path, old)
    with pytest.raises(ConfigurationError, match="other names"):
        _ = open_run(old).networks
