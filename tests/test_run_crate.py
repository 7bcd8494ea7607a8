"""A run's folder is a Process Run Crate that names what is there and nobody; Prometheus is told how far a run is."""

import json
import re

from pipeline.run.crate import NAME, write_crate
from pipeline.run.progress import Count, Progress
from pipeline.run.textfile import Textfile, metrics
from tests.fabricate_run import fabricated_run


def test_a_run_leaves_a_crate_that_names_every_table_and_the_report(plain):
    crate = json.loads((plain.run / NAME).read_text())
    things = {thing["@id"]: thing for thing in crate["@graph"]}
    assert len(things) == len(crate["@graph"])
    assert things[NAME]["about"] == {"@id": "./"}
    named = {part["@id"] for part in things["./"]["hasPart"]}
    tables = {"studies.csv", "patients.csv", "exclusions.csv", "slices.parquet", "results.h5", "csv-metadata.json"}
    assert tables | {"run.toml", "report/index.html"} == named
    assert all((plain.run / name).stat().st_size == int(things[name]["contentSize"]) for name in named)
    action = things["#screening"]
    assert things[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert {one["@id"] for one in action["object"]} == {"#archive", "#network-probability"}
    assert str(plain.archive) not in json.dumps(crate)


def test_every_thing_that_a_crate_refers_to_is_in_it(tmp_path):
    fabricated_run(tmp_path, 10)
    write_crate(tmp_path)
    graph = json.loads((tmp_path / NAME).read_text())["@graph"]
    there = {thing["@id"] for thing in graph}
    referred = set(re.findall(r'\{"@id":"([^"]+)"\}', json.dumps(graph, separators=(",", ":"))))
    assert {name for name in referred - there if not name.startswith("https://")} == set()
    assert "report/index.html" not in there


def test_the_textfile_says_how_far_the_run_is(tmp_path):
    progress = Progress(3, 5)
    progress.tell(Textfile(tmp_path / "run.prom"))
    assert "\ndrenet_studies_done 2\n" in (tmp_path / "run.prom").read_text()
    progress.step(failed=True)
    progress.close()
    said = (tmp_path / "run.prom").read_text()
    assert "\ndrenet_studies 5\n" in said
    assert "\ndrenet_studies_done 3\n" in said
    assert "\ndrenet_studies_failed 1\n" in said


def test_the_textfile_is_in_the_form_that_prometheus_reads():
    lines = metrics(Count(5, 2, 0, 0.25), 1.5).splitlines()
    for start in range(0, len(lines), 3):
        name = lines[start + 2].split()[0]
        assert lines[start].startswith(f"# HELP {name} ")
        assert lines[start + 1] == f"# TYPE {name} gauge"
        float(lines[start + 2].split()[1])


def test_a_textfile_that_cannot_be_written_stops_nothing_and_is_said_once(tmp_path, caplog):
    progress = Progress(3, 5, every_s=0.0)
    progress.tell(Textfile(tmp_path / "gone" / "run.prom"))
    progress.step(failed=False)
    progress.close()
    assert sum("run.prom" in message for message in caplog.messages) == 1
